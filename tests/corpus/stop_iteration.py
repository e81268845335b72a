"""A StopIteration of the user is the user's, also where generators carry the block."""
def raises():
    ask(StopIteration(1))
with trace():
    try:
        raises()
    except StopIteration as error:
        log("caught", error)
    a = next(iter([]), ask(2))
    try:
        next(iter([]))
    except StopIteration:
        log("also")
def generator():
    yield 1
    next(iter([]))
with trace():
    try:
        log(list(generator()))
    except RuntimeError as error:
        log(error, error.__cause__)
with trace():
    raise StopIteration("leaves")
