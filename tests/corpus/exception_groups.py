"""`except*`: parts, rest, and an error raised in a handler."""
with trace():
    try:
        raise ExceptionGroup("g", [ValueError(ask(1)), KeyError(2), ExceptionGroup("h", [TypeError(3)])])
    except* ValueError as group:
        log(group.exceptions, ask("value"))
    except* TypeError:
        log("type")
    except* KeyError: log("key")
    try:
        raise ExceptionGroup("g", [ValueError(1), OSError(2)])
    except* ValueError:
        raise RuntimeError("in handler")
