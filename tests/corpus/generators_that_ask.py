"""A generator of the user suspends twice over: for its items, and for the model."""
def items(n):
    for i in range(n):
        got = yield ask(i)
        log("got", got)
    return ask("end")
def delegating():
    log((yield from items(2)))
    yield from [ask(8), 9]
with trace():
    log(list(items(3)))
    g = items(2)
    log(next(g), g.send("sent"))
    g.close()
    log([x for x in delegating()])
    a, *b = items(3)
    log(max(items(3)), dict(enumerate(items(2))), [*items(1), *delegating()])
    for i, x in enumerate(items(2)):
        if i: break
