"""Calls of every shape: stars, keywords, defaults, requests between the arguments."""
def f(a, /, b, *c, d=4, **e): return a, b, c, d, e
order = []
def note(x): order.append(x); return ask(x)
with trace():
    log(f(note(1), note(2)), f(note(1), b=note(2)), f(*[note(3), note(4)], note(5), d=note(6)))
    log(f(note(1), *(note(2),), **{"d": note(7), "z": note(8)}), order)
    log(dict(a=note(1), **dict(b=note(2))), print(note("p"), end=note("!"), sep=""))
    for bad in (lambda: f(), lambda: f(1, 2, a=3, b=4), lambda: f(1)(note(2))):
        try:
            bad()
        except TypeError as error:
            log(str(error))
