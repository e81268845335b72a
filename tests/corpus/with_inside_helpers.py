"""A helper called from a block has a traced block of its own."""
def helper(x):
    y = x + 1
    with trace() as t:
        z = ask(y)
        y = z * 2
    return y, z
with trace():
    a = helper(ask(1))
    with trace():
        b = [helper(i) for i in range(2)]
log(a, b)
