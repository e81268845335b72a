"""Helpers that call helpers; recursion; functions given to functions."""
import functools
def down(n): return ask(n) if n == 0 else down(n - 1) + 1
def apply(f, *args, **kwargs): return f(*args, **kwargs)
@functools.lru_cache
def cached(n): return n
def decorator(f):
    @functools.wraps(f)
    def inner(*args): return f(*args) + ask(1)
    return inner
@decorator
def decorated(n): return ask(n)
class Base:
    def method(self, x): return ("base", ask(x))
    @classmethod
    def make(cls, x): return cls(), ask(x)
    @staticmethod
    def static(x): return ask(x)
class Child(Base):
    def method(self, x): return ("child", *super().method(ask(x)))
with trace():
    log(down(40), apply(down, 3), apply(functools.partial(apply, down), n=2), decorated(5))
    log(Child().method(1), Child.make(2)[1], Child.static(3), [*map(down, (1, 2))])
    log(sorted([3, 1, 2], key=lambda x: ask(-x)), cached(4), max([1, 2], key=ask))
