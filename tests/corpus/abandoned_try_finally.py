"""An error while suspended runs `finally` blocks, innermost first, and requests in them."""
def helper():
    try:
        ask(KeyError("model"))
    finally:
        log("inner", ask(1))
def run():
    with trace():
        try:
            try:
                helper()
            except ValueError:
                log("not this")
            else:
                log("nor this")
        finally:
            log("outer", ask(2))
try:
    run()
except KeyError as error:
    log(error)
def swallowed():
    for i in range(3):
        with trace():
            try:
                ask(KeyError(i))
            finally:
                break_ = i
                log(i)
swallowed()
