"""The pages of `docs/gallery`: each runs as it stands there, and its numbers are checked.

The oracle of each page is the same computation with hooks written by hand.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from decoders import DECODERS, tokenizer
from torch import nn
from torch.nn import functional

import tracekit

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
PAGES = {path.name[:2]: path for path in sorted(GALLERY.glob("[0-9]*.md"))}
CLEAN, CORRUPT = "Rome is in Italy", "Paris is in Italy"


def blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def build(seed=0, **config):
    torch.manual_seed(seed)
    module = DECODERS["llama"].build()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    module.set_attn_implementation("eager")
    return module


def metric(logits):
    return logits[:, -1, 11] - logits[:, -1, 12]


class Map(nn.Module):
    """A tiny sparse autoencoder, also a transcoder."""

    def __init__(self, width=32, features=64):
        super().__init__()
        self.up, self.down = nn.Linear(width, features), nn.Linear(features, width)

    def encode(self, value):
        return self.up(value).relu()

    def decode(self, features):
        return self.down(features)


class World:
    """A model, its plain module, and a page's names."""

    def __init__(self):
        self.module = build()
        self.tok = tokenizer()
        self.model = tracekit.LanguageModel(self.module, self.tok)
        self.names = {"model": self.model, "L": self.model.layers, "metric": metric, "k": 1}
        exec(blocks(GALLERY / "README.md")[0], self.names)

    def ids(self, text):
        texts = [text] if isinstance(text, str) else text
        return self.tok(texts, return_tensors="pt", padding=True, padding_side="left")["input_ids"]

    def run(self, page, **names):
        self.names.update(names)
        path = PAGES[page]
        for block in blocks(path):
            exec(compile(block, str(path), "exec"), self.names)
        return self.names

    def hooked(self, text, *, module=None, pre={}, post={}, **call):
        """Logits with functions on arguments and outputs of modules, by path."""
        module = self.module if module is None else module
        handles = [
            module.get_submodule(path).register_forward_pre_hook(
                lambda _, args, fn=fn: fn(args[0]) if args else None
            )
            for path, fn in pre.items()
        ]
        for path, fn in post.items():

            def hook(_, args, out, fn=fn):
                new = fn(out[0] if isinstance(out, tuple) else out)
                return (new, *out[1:]) if isinstance(out, tuple) and new is not None else new

            handles.append(module.get_submodule(path).register_forward_hook(hook))
        try:
            value = self.ids(text) if isinstance(text, str) else text
            return module(value, **call)
        finally:
            for handle in handles:
                handle.remove()

    def kept(self, text, *paths, module=None):
        found = {}
        post = {path: (lambda out, path=path: found.update({path: out.clone()})) for path in paths}
        self.hooked(text, module=module, post=post)
        return [found[path] for path in paths]


@pytest.fixture
def world(no_residue):
    made = World()
    no_residue(made.module)
    return made


def close(one, two):
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_all_twenty_are_there():
    assert [f"{number:02}" for number in range(1, 21)] == list(PAGES)
    index = (GALLERY / "README.md").read_text(encoding="utf-8")

    assert all(f"({path.name})" in index for path in PAGES.values())


def test_each_is_as_short_as_people_write_it():
    lines = [
        sum(bool(line.strip()) for line in blocks(path)[0].splitlines()) for path in PAGES.values()
    ]

    assert max(lines) <= 14
    assert all(len(blocks(path)) == 2 for path in PAGES.values())


def test_01_logit_lens(world, capsys):
    names = world.run("01", prompt=CLEAN, translators=[nn.Identity()] * 2)
    head, norm = world.module.lm_head, world.module.model.norm
    for (p, tok), hidden in zip(
        names["table"], world.kept(CLEAN, "model.layers.0", "model.layers.1"), strict=True
    ):
        best = head(norm(hidden)).softmax(-1).max(-1)
        close(p, best.values)
        assert torch.equal(tok, best.indices)

    assert names["agrees"]
    assert 2 == len(capsys.readouterr().out.splitlines())


def test_02_activation_patching(world, capsys):
    grid = torch.zeros(2, 4)
    world.run("02", clean=CLEAN, corrupt=CORRUPT, n_tokens=4, grid=grid)
    by_hand = torch.zeros(2, 4)
    for i in range(2):
        (clean,) = world.kept(CLEAN, f"model.layers.{i}")
        for p in range(4):

            def put(out, clean=clean, p=p):
                out = out.clone()
                out[:, p] = clean[:, p]
                return out

            by_hand[i, p] = metric(world.hooked(CORRUPT, post={f"model.layers.{i}": put}).logits)

    close(grid, by_hand)
    assert 2 == len(capsys.readouterr().out.splitlines())


def test_03_attribution_patching(world):
    names = world.run("03", clean=CLEAN, corrupt=CORRUPT)
    paths = [f"model.layers.{i}.self_attn" for i in range(2)]
    held = {}
    clean = world.kept(CLEAN, *paths)
    post = {path: (lambda out, path=path: held.update({path: out})) for path in paths}
    metric(world.hooked(CORRUPT, post=post).logits).backward(
        inputs=[held[path] for path in paths], retain_graph=True
    )
    for found, path, x in zip(names["node"], paths, clean, strict=True):
        close(found, ((x - held[path]) * held[path].grad).sum(-1))


def test_04_path_patching(world):
    model = world.model
    names = world.run(
        "04",
        alt=CORRUPT,
        orig=CLEAN,
        s=0,
        receiver_layer=1,
        sender=model.layers[0].mlp.gate_proj,
        receiver=model.layers[1].mlp.gate_proj,
    )
    found = {}

    def note(name):
        return lambda value: found.update({name: value.clone()})

    world.hooked(CORRUPT, pre={"model.layers.0.mlp.gate_proj": note("z")})
    (base,) = world.kept(CLEAN, "model.layers.0.mlp")
    world.hooked(
        CLEAN,
        pre={
            "model.layers.0.mlp.gate_proj": lambda _: (found["z"],),
            "model.layers.1.mlp.gate_proj": note("r"),
        },
        post={"model.layers.0.mlp": lambda _: base},
    )
    out = world.hooked(CLEAN, pre={"model.layers.1.mlp.gate_proj": lambda _: (found["r"],)})

    close(names["effect"], metric(out.logits))


def test_05_head_ablation(world):
    batch = world.ids([CLEAN, CORRUPT])
    clean_loss = world.module(batch, labels=batch).loss
    names = world.run("05", batch=batch, chosen=[[0, 2], [1]], clean_loss=clean_loss)

    def ablate(heads):
        def pre(value):
            z = value.clone().unflatten(-1, (4, -1))
            z[:, :, heads] = z[:, :, heads].mean((0, 1))
            return (z.flatten(-2),)

        return pre

    pre = {f"model.layers.{i}.self_attn.o_proj": ablate(h) for i, h in enumerate([[0, 2], [1]])}
    out = world.hooked(batch, pre=pre, labels=batch)

    close(names["effect"], out.loss - clean_loss)


def test_06_attention_knockout(world, monkeypatch):
    before = metric(world.module(world.ids(CLEAN)).logits)
    names = world.run("06", prompt=CLEAN, first=0, last=2, dst=3, src=1, before=before)
    softmax = functional.softmax

    def knocked(scores, *args, **kwargs):
        scores = scores.clone()
        scores[:, :, 3, 1] = -torch.inf
        return softmax(scores, *args, **kwargs)

    monkeypatch.setattr(functional, "softmax", knocked)
    by_hand = before - metric(world.module(world.ids(CLEAN)).logits)

    assert by_hand.abs() > 1e-5
    close(names["drop"], by_hand)


def test_07_steering(world):
    pos, neg = ["Rome is big", "Paris is big"], ["Rome is small", "Paris is small"]
    names = world.run("07", pos=pos, neg=neg, question=CLEAN, text={})
    a, b = (world.kept(world.ids(t), "model.layers.1")[0][:, -2].mean(0) for t in (pos, neg))
    close(names["v"], a - b)

    def steer(out):
        out[:, -1] += 4 * (a - b)

    handle = world.module.model.layers[1].register_forward_hook(lambda m, i, out: steer(out))
    ids = world.module.generate(world.ids(CLEAN), max_new_tokens=6, do_sample=False)
    handle.remove()

    assert world.tok.decode(ids[0]) == names["text"][4]
    assert [-4, -2, 0, 2, 4] == list(names["text"])


def test_08_refusal_direction(world):
    r = functional.normalize(torch.randn(32), dim=0)
    names = world.run("08", harmful=CLEAN, r=r)

    def project(_, args, out):
        h = out[0] if isinstance(out, tuple) else out
        h = h - (h @ r)[..., None] * r
        return (h, *out[1:]) if isinstance(out, tuple) else h

    handles = [
        part.register_forward_hook(project)
        for layer in world.module.model.layers
        for part in (layer.self_attn, layer.mlp)
    ]
    ids = world.module.generate(world.ids(CLEAN), max_new_tokens=8, do_sample=False)
    for handle in handles:
        handle.remove()

    assert torch.equal(ids, names["ids"])


def test_09_probing(world):
    loader = [
        (["Rome is big", "Paris is big"], [1.0, 1.0]),
        (["a cat sat", "a dog sat"], [0.0] * 2),
    ]
    names = world.run("09", loader=loader, X=[], y=[])
    by_hand = torch.cat([world.kept(world.ids(t), "model.layers.1")[0][:, -1] for t, _ in loader])

    close(names["X"], by_hand)
    assert 1.0 == names["right"].item()


def test_10_sae_splicing(world):
    torch.manual_seed(1)
    sae, ids = Map(), world.ids(CLEAN)
    names = world.run("10", ids=ids, sae=sae, feature=3)

    def splice(h):
        f = sae.encode(h)
        err = h - sae.decode(f)
        f = f.clone()
        f[..., 3] = 0
        return sae.decode(f) + err

    out = world.hooked(ids, post={"model.layers.1": splice}, labels=ids)

    close(names["loss"], out.loss)


def test_11_transcoders(world):
    torch.manual_seed(1)
    coders = [Map(), Map()]
    plain = world.module(world.ids(CLEAN)).logits

    def divergence(one, two):
        return functional.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="batchmean")

    names = world.run(
        "11", prompt=CLEAN, transcoders=coders, feats=[], divergence=divergence, plain=plain
    )
    held = {}
    pre = {f"model.layers.{i}.mlp": (lambda value, i=i: held.update({i: value})) for i in range(2)}
    post = {
        f"model.layers.{i}.mlp": (lambda _, i=i: coders[i].decode(coders[i].encode(held[i])))
        for i in range(2)
    }

    close(names["kl"], divergence(world.hooked(CLEAN, pre=pre, post=post).logits, plain))


def test_12_integrated_gradients(world):
    ids = world.ids(CLEAN)
    base = torch.zeros(1, 4, 32)
    names = world.run("12", ids=ids, base=base, g=0, target=11, words=CLEAN.split())
    e0 = world.module.model.embed_tokens(ids)
    g = 0
    for a in torch.linspace(0, 1, 32):
        e = (base + a * (e0 - base)).detach().requires_grad_()
        world.module(inputs_embeds=e).logits[0, -1, 11].backward(inputs=[e])
        g = g + e.grad

    close(names["ig"], (e0 - base) * g / 32)


def test_13_das(world):
    torch.manual_seed(1)
    R = nn.Parameter(torch.linalg.qr(torch.randn(32, 32))[0])
    for parameter in world.module.parameters():
        parameter.requires_grad_(False)
    start = R.detach().clone()
    pairs = [(CLEAN, CORRUPT, torch.tensor([11]))] * 5
    losses = []
    opt = torch.optim.Adam([R], 0.05)
    world.run(
        "13", k=0, pairs=pairs, R=R, d=8, p=0, ce=functional.cross_entropy, opt=opt, losses=losses
    )
    (s,) = world.kept(CORRUPT, "model.layers.0")

    def exchange(h):
        h = h.clone()
        x = h[:, 0]
        h[:, 0] = x + (s[:, 0] @ start - x @ start)[:, :8] @ start[:, :8].T
        return h

    out = world.hooked(CLEAN, post={"model.layers.0": exchange})
    first = functional.cross_entropy(out.logits[:, -1], torch.tensor([11]))

    close(torch.tensor(losses[0]), first)
    assert not torch.equal(start, R)


def test_14_rome(world):
    delta = nn.Parameter(torch.zeros(32))
    for parameter in world.module.parameters():
        parameter.requires_grad_(False)
    ids = world.ids([CLEAN, CORRUPT])
    targets = torch.full_like(ids, -100)
    targets[:, -1] = 11
    down = world.module.model.layers[1].mlp.down_proj.weight
    before, losses, u = down.clone(), [], torch.randn(48)
    names = world.run(
        "14",
        prompts=ids,
        targets=targets,
        rows=[0, 1],
        subject_end=[0, 2],
        delta=delta,
        wd=0.0,
        opt=torch.optim.Adam([delta], 0.1),
        losses=losses,
        u=u,
    )
    plain = world.module  # its weight was changed: put it back for the comparison
    with torch.no_grad():
        after = down.clone()
        down.copy_(before)
    close(torch.tensor(losses[0]), plain(ids, labels=targets).loss)
    close(after, before + torch.outer(delta, u))
    assert losses[-1] < losses[0]


def test_15_loreft(world):
    torch.manual_seed(1)
    for parameter in world.module.parameters():
        parameter.requires_grad_(False)
    W = {i: nn.Linear(32, 2) for i in range(2)}
    R = {i: nn.Parameter(torch.randn(2, 32) / 6) for i in range(2)}
    trained = [*R.values(), *(p for w in W.values() for p in w.parameters())]
    ids, losses = world.ids("The Eiffel Tower is in Paris"), []

    def change(i):
        w, r = W[i], R[i]

        def post(o):
            x = o[:, :4]
            return torch.cat([x + (w(x) - x @ r.T) @ r, o[:, 4:]], 1)

        return post

    post = {f"model.layers.{i}": change(i) for i in range(2)}
    first = world.hooked(ids, post=post, labels=ids).loss
    world.run(
        "15",
        layers=(0, 1),
        W=W,
        R=R,
        loader=[ids] * 10,
        opt=torch.optim.Adam(trained, 0.05),
        losses=losses,
        n_trained=sum(p.numel() for p in trained),
    )

    close(torch.tensor(losses[0]), first)
    assert losses[-1] < losses[0]


def test_16_kv_cache(world):
    ids = world.module.generate(world.ids(CLEAN), max_new_tokens=5, do_sample=False)
    score = {}
    world.run("16", prompt=CLEAN, evict=[], score=score, expected=world.tok.decode(ids[0]))
    names = world.run("16", evict=[0, 1, 2, 3])
    assert score[0]

    first = world.module(world.ids(CLEAN), use_cache=True)
    for layer in first.past_key_values.layers:
        layer.values[:, :, [0, 1, 2, 3]] = 0
    found, past = [first.logits[:, -1].argmax(-1)], first.past_key_values
    takes = inspect.signature(type(world.module).forward).parameters
    word = "past_key_values" if "past_key_values" in takes else "cache"
    for _ in range(4):
        step = world.module(found[-1][:, None], **{word: past})
        found.append(step.logits[:, -1].argmax(-1))
    by_hand = torch.cat([world.ids(CLEAN)[0], *found])

    assert world.tok.decode(by_hand) == names["answer"]


def test_17_early_exit(world):
    names = world.run("17", prompt=CLEAN, sure=0.2, exits=[])
    head, norm = world.module.lm_head, world.module.model.norm
    ids, exits = world.ids(CLEAN), []
    for _ in range(5):
        for i, hidden in enumerate(world.kept(ids, "model.layers.0", "model.layers.1")):
            logits = head(norm(hidden[:, -1:]))
            if logits.softmax(-1).max() > 0.2:
                break
        exits.append(i)
        ids = torch.cat([ids, logits.argmax(-1)], 1)

    assert exits == names["exits"]


def test_18_model_diffing(world):
    other = build(seed=5)
    tuned = tracekit.LanguageModel(other, world.tok)
    names = world.run(
        "18", base=world.model, tuned=tuned, text=CLEAN, cosine=functional.cosine_similarity
    )
    (h,) = world.kept(CLEAN, "model.layers.1")
    out = world.hooked(CLEAN, module=other, post={"model.layers.1": lambda _: h})
    close(names["kl"], metric(out.logits))
    one, two = (world.kept(CLEAN, "model.layers.0", module=m)[0] for m in (world.module, other))

    close(names["drift"][0], 1 - functional.cosine_similarity(one, two, -1).mean())


def test_19_patchscopes(world):
    names = world.run("19", source=CLEAN, target=CORRUPT, ls=1, p=2, told={})
    (h,) = world.kept(CLEAN, "model.layers.1")
    for lt in range(2):
        calls = []

        def put(_, args, out, calls=calls):
            calls.append(1)
            if len(calls) == 1:
                out[:, -2] = h[:, 2]

        handle = world.module.model.layers[lt].register_forward_hook(put)
        ids = world.module.generate(world.ids(CORRUPT), max_new_tokens=4, do_sample=False)
        handle.remove()
        assert world.tok.decode(ids[0]) == names["told"][lt]


def test_20_harvesting(world, tmp_path):
    texts = [[CLEAN, "a cat sat"], [CORRUPT]]
    loader = [
        dict(world.tok(t, return_tensors="pt", padding=True, padding_side="left")) for t in texts
    ]
    names = world.run("20", loader=loader, want=[0, 1], folder=tmp_path, done=0)
    loaded = tracekit.CacheDict.load(names["shards"][1])
    (hidden,) = world.kept(CORRUPT, "model.layers.0")

    assert 11 == names["done"]
    assert torch.equal(loaded["model.layers.0"].output, hidden.to(torch.bfloat16))
