"""Patterns with captures, guards and classes, over requested subjects."""
class P:
    __match_args__ = ("x", "y")
    def __init__(self, x, y): self.x, self.y = x, y
def run(value):
    with trace():
        match ask(value):
            case 0 | 1: r = "small"
            case [a, *rest] if ask(a): r = a, rest
            case {"k": v, **others}: r = v, others
            case P(x, y=ask_) if x == ask(ask_): r = "diagonal"
            case P(x=1): r = "one"
            case str() as s: r = s
            case _: r = None
    return r
log([run(v) for v in (0, [1, 2], [0, 2], {"k": 1, "l": 2}, P(2, 2), P(1, 2), "s", 1.5)])
