"""break, continue and else inside the block; a block in a loop around it."""
def run():
    seen = []
    for i in range(4):
        with trace():
            for j in range(ask(4)):
                if j == ask(1): continue
                if j == 3: break
                seen.append((i, j))
            else:
                seen.append("no break")
            n = 3
            while (n := n - 1) > 0:
                if ask(n) == 5: break
            else:
                seen.append("else")
        if i == 1: continue
        if i == 2: break
    return seen, i, j, n
log(run())
