"""Builtins that look at the names of the frame that calls them, in a function and outside."""
def names(given):
    return sorted(name for name in given if not name.startswith("_"))
def run(first, *rest, word=3):
    unused, later = 1, 2
    def inner():
        return later
    with trace():
        log(names(locals()), names(vars()), names(dir()))
        added = ask(5)
        log(eval("first + unused + later + added"), names(locals()))
        space = {}
        exec("made = word + unused", globals() | locals(), space)
        log(space)
        del unused
        log(names(locals()), inner())
    log(names(locals()), [eval("later") for _ in range(1)] if False else later)
    for later in range(2):
        with trace():
            kept = ask(later) + len(names(locals()))
        log(kept, names(locals()))
run(1, 2)
class Made:
    one = 1
    with trace():
        two = ask(2)
        log(names(locals()), eval("one + two"))
with trace():
    three = eval("ask(3) if False else 3")
    log("three" in globals(), "three" in locals(), "run" in dir())
