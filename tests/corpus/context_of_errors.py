"""Cause and context of an error that leaves a block."""
def helper():
    ask(TypeError("inner"))
def run():
    with trace():
        try:
            helper()
        except TypeError as error:
            raise ValueError("outer") from error
try:
    run()
except ValueError as error:
    log(error, error.__cause__, error.__context__, error.__suppress_context__)
run()
