"""A class statement in a block, with requests in its body, decorators and bases."""
class Meta(type):
    def __new__(mcls, name, bases, ns, **kw): return super().__new__(mcls, name, bases, ns | kw)
def tag(cls): cls.tag = ask("tag"); return cls
with trace():
    @tag
    class C(metaclass=Meta, k=ask(1)):
        """Doc."""
        a: int = ask(2)
        b = [ask(i) for i in range(2)]
        def method(self, d=ask(3)): return self.a, d, __class__.__name__
        class Inner: c = ask(4)
    log(C.k, C.a, C.b, C().method(), C.Inner.c, C.__qualname__, C.tag, C.__doc__)
