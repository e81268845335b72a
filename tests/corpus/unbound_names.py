"""Names that are unbound stay unbound; `del` unbinds."""
def run(flag):
    if flag:
        a = 1
    with trace():
        try:
            log(a)
        except UnboundLocalError as error:
            log(type(error), str(error))
        b = ask(2)
        if flag:
            c = b
    log(sorted(locals()))
    try:
        return c
    except UnboundLocalError as error:
        return str(error)
log(run(True), run(False))
a = b = 1
with trace():
    del a
    try:
        a
    except NameError as error:
        log(str(error))
    del b
    b = ask(3)
log("a" in globals(), b)
