"""What stands after a block: return, break, raise, nothing. The compiler copies short endings."""
def returns(x):
    with trace(): a = ask(x)
    return a
def in_loop(x):
    for i in range(3):
        with trace(): a = ask(x + i)
        break
    return a
def in_if(x):
    if x:
        with trace(): a = ask(x)
    else:
        a = 0
    return a
def in_try(x):
    try:
        with trace(): a = ask(x)
        return a
    finally:
        log("finally")
def nothing(x):
    with trace(): log(ask(x))
def condition(x):
    with trace():
        if ask(x): pass
def loop_end(x):
    while x:
        with trace():
            x = ask(x - 1)
            if x == 1: log("one")
log(returns(1), in_loop(2), in_if(3), in_if(0), in_try(4), nothing(5), condition(6), loop_end(2))
