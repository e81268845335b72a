"""Requests in comprehensions, and a variable of theirs that shadows one of the block."""
x = 10
with trace():
    a = [ask(x) for x in range(3)]
    b = {x: ask(x) + 1 for x in a if ask(x)}
    c = sorted(ask(-y) for y in a)
    d = [[ask(i * j) for j in range(2)] for i in range(2)]
    e = [(z := ask(i)) for i in (1, 2)]
    log(x, z, any(ask(y) == 1 for y in a), sum(ask(y) for y in a))
def run(x):
    with trace():
        a = [x for x in (ask(x), 2)]
        f = lambda: x
    return a, x, f()
log(run(5))
