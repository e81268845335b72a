"""What a handler of `except*` raises, also by a helper and by the model, is kept as it is inline."""
def ends():
    ask(1)
    raise StopIteration(ask(2))


def fails():
    raise KeyError(ask("k"))


for helper in (ends, fails, lambda: ask(ValueError("asked"))):
    try:
        with trace():
            try:
                raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
            except* ValueError as error:
                log(error.exceptions)
                helper()
            except* TypeError:
                x = ask(3)
    except* (StopIteration, KeyError, ValueError) as error:
        log(type(error), error.exceptions)
