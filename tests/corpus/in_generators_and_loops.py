"""A block in a generator that is suspended before and after it, and closed."""
def gen(n):
    try:
        for i in range(n):
            x = yield ("before", i)
            with trace() as t:
                y = ask((x, i))
            yield ("after", y)
    finally:
        with trace(): log("closing", ask("c"))
g = gen(3)
log(next(g), g.send("s"), next(g))
g.close()
log(list(gen(2)))
class Body:
    names = []
    for i in range(2):
        with trace():
            names.append(ask(i))
            j = i
    log(names, j)
log((lambda: [ask_ for ask_ in (1, 2)])())
