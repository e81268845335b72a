"""`as` targets of each kind belong to the block."""
class Box: pass
box, table = Box(), {}
def pair():
    class Pair:
        def __enter__(self): return 1, 2
        def __exit__(self, *error): return None
    return Pair()
with trace() as box.t: a = ask(1)
with trace() as table["t"]: b = ask(2)
with pair() as (c, d), trace() as t, pair() as [e, *f]: log(c, d, e, f, ask(3))
log(sorted(table), sorted(vars(box)))
