"""Operators that fail say what they say inline."""
class P: pass
class N:
    def __add__(self, o): return NotImplemented
    def __eq__(self, o): return NotImplemented
    def __lt__(self, o): return NotImplemented
cases = ("P() + 's'", "2 ** P()", "pow(2, P())", "P() < 1", "-P()", "P()[0]", "len(P())", "1 in P()", "P()()",
         "N() + 1", "1 + N()", "N() < N()", "[*P()]", "{**P()}", "P().x", "None.x", "f'{P():>3}'",
         "(lambda: 1)(2)", "P() @ 1", "ask(1)(2)", "int('x')", "[][1]", "{}['k']")
for case in cases:
    exec(f"def run():\n    with trace():\n        {case}\n")
    try:
        run()
    except Exception as error:
        log(case, type(error), str(error))
def augmented():
    with trace():
        p = P()
        p -= 1
augmented()
