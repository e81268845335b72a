"""Requests in the methods behind operators."""
class V:
    def __init__(self, v): self.v = ask(v)
    def __add__(self, o): return ("add", ask(self.v), o)
    def __radd__(self, o): return ("radd", ask(self.v), o)
    def __iadd__(self, o): self.v = ask(o); return self
    def __eq__(self, o): return ask(True)
    def __lt__(self, o): return ask(False)
    def __neg__(self): return ask(-1)
    def __bool__(self): return ask(False)
    def __getitem__(self, k): return ask(("item", k))
    def __setitem__(self, k, v): log("set", ask(k), v)
    def __delitem__(self, k): log("del", ask(k))
    def __contains__(self, k): return ask(k)
    def __call__(self, *a, **k): return ask((a, k))
    def __iter__(self): yield ask("it")
    def __enter__(self): return ask("enter")
    def __exit__(self, kind, error, tb): log("exit", kind, ask("exit")); return kind is KeyError
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return ask(name)
    @property
    def p(self): return ask("p")
    @p.setter
    def p(self, v): log("p =", ask(v))
    def __format__(self, spec): return ask("fmt" + spec)
    def __len__(self): return ask(3)
with trace():
    v = V(1)
    log(v + 1, 1 + v, v == 2, v < 1, -v, not v, v["k"], 4 in v, v(1, x=2))
    v["a"] = 1
    del v["b"]
    v += 5
    v.p = v.p
    log([*v], v.missing, f"{v:>3}", v.v, len(v))
    if v: log("true")
    else: log("false")
    while v: pass
    with v as w: log(w); raise KeyError
    log(v and 1, v or 2, 0 if v else 1)
