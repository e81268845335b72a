"""Context managers inside, that swallow, that ask, made by a decorator, and another trace."""
import contextlib
@contextlib.contextmanager
def manager(swallow):
    log("in", ask(1))
    try:
        yield ask(2)
    except ValueError as error:
        log("error", error)
        if not swallow: raise
    finally:
        log("out", ask(3))
with trace():
    with manager(True) as a, manager(True) as b:
        log(a, b)
        raise ValueError("swallowed")
    with contextlib.suppress(KeyError), manager(False):
        raise KeyError
    with trace() as inner:
        c = ask(4)
    log(c)
    with manager(False): raise ValueError("leaves")
