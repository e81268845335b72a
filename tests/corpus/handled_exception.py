"""What is being handled in the block is what is handled where the `with` stands."""
import sys
def outer():
    try:
        raise KeyError("outer")
    except KeyError:
        with trace():
            log(sys.exception(), sys.exc_info()[0])
            try:
                ask(ValueError("asked"))
            except ValueError as error:
                log(error.__context__)
            try:
                raise
            except KeyError as error:
                log("again", error, error.__context__)
        log(sys.exception())
outer()
with trace():
    log(sys.exception())
    try:
        raise
    except RuntimeError as error:
        log(error)
