"""What a handler of `except*` raises, also by a helper and by the model, is kept as it is inline."""


def ends():
    ask(1)
    raise StopIteration(ask(2))


def run(helper):
    with trace():
        try:
            raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
        except* ValueError as error:
            log(error.exceptions)
            helper()
        except* KeyError:
            x = ask(3)


try:
    run(ends)
except ExceptionGroup as group:
    log([type(error) for error in group.exceptions])
run(lambda: ask(ValueError("asked")))
