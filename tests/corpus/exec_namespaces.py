"""Blocks in `exec`, with one and two namespaces."""
source = "with trace():\n    a = ask(b)\n    def f(): return a\n    del c\n"
one = {"trace": trace, "ask": ask, "b": 2, "c": 3}
exec(source, one)
log(one["a"], one["f"](), "c" in one)
two = {"b": 3, "c": 4}
exec(source, {"trace": trace, "ask": ask}, two)
log(sorted(two), two["a"])
del one["trace"], one["ask"], one["__builtins__"]
