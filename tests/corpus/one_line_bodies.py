"""Bodies on the line of the `with`; several statements on one line; several items."""
with trace() as t: a = ask(1)
with trace(): b = ask(2); c = b + ask(3); log(a, b, c)
with trace() as x, trace() as y: d = ask(4)
with (trace() as x,
      trace()
      as y): e = ask(5)
