"""global, nonlocal, imports, annotations, star-unpacking, augmented assignment, in a function."""
total = 1
def run(*args, k=1, **kwargs):
    count = 0
    def bump():
        nonlocal count
        with trace():
            count += ask(2)
            global total
            total += count
        return count
    with trace() as t:
        import math, os.path as path
        from math import floor as fl
        first, *others = ask(args)
        (p, [q, r]), s = ask(((1, [2, 3]), 4))
        k += bump()
        typed: int = ask(5)
        bare: int
        kwargs["new"] = ask(6)
        u = w = ask(7)
        if (z := ask(8)) > 7: z2 = z
        print(f"{z!r:>4}|{fl(2.5)}|{math.sqrt(4)}", path.__name__[-4:])
    del t
    return {name: value for name, value in locals().items() if name not in {"math", "path", "bump"}}
log(run(1, 2, 3, k=5, x=1), total)
