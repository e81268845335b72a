"""A body that begins with `try`, whose handler is far away."""
def run(a):
    with trace() as t:
        try:
            b = ask(a) / 0
        except ZeroDivisionError as error:
            log(error, sys_exception())
            b = 5
        finally:
            c = ask(7)
    return a, b, c
import sys
sys_exception = sys.exception
log(run(3))
