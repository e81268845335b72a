"""Closures made in a block and before it share variables with the frame."""
def run():
    a = 1
    def before():
        nonlocal a
        a += 10
        return a
    with trace():
        log(before(), a)
        a = ask(2)
        def inside():
            nonlocal a
            a += ask(100)
            return a
        log(before(), inside(), a)
        for i in range(3):
            last = lambda: i
    log(before(), inside.__name__, a, last())
    a = 7
    return before(), a
log(run())
