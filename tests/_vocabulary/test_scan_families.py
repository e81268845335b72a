"""Every operation of attentions, MLPs, mixers and blocks: shapes of a scan, against a run."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402 (after the skip)
from families import FAMILIES, Family  # noqa: E402
from operation_shapes import differing_operations  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812 - everybody's name for it

# Every value is read, also those that the model goes on to change.
pytestmark = pytest.mark.filterwarnings("ignore::tracekit.HeldValueWarning")

# Of each of these the first in the model; the root is always one.
INNER = ("Attention", "MLP", "Mixer", "Experts", "SparseMoeBlock", "Router", "DenseAct", "Layer")
NAMES = ["gpt2", "llama", "qwen3moe", "mixtral", "gemma3", "bert", "vit", "t5", "whisper", "mamba"]


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * 2, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, width * 2)
        self.time = nn.Linear(8, width * 2)

    def forward(self, x, time):
        return F.silu(self.norm(self.conv(x))) + self.time(time)[:, :, None, None]


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width * 3, width, 3, padding=1)
        self.out = nn.ConvTranspose2d(width, width, 1)

    def forward(self, x, skipped):
        x = F.interpolate(x, size=skipped.shape[-2:], mode="nearest")
        joined = torch.cat((x, skipped), dim=1)
        return self.out(F.silu(self.conv(joined)))


class UNet(nn.Module):
    """Convolutions down, attention in the middle, convolutions up, with the skips between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.ModuleList([Down(4), Down(8)])
        self.mid = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.ModuleList([Up(8), Up(4)])
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, image, step):
        angles = step[:, None] / torch.arange(1, 5, device=step.device)
        time = torch.cat((angles.sin(), angles.cos()), dim=-1)
        x = self.first(image)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x, time)
        tokens = x.flatten(2).mT
        mixed, _ = self.mid(tokens, tokens, tokens, need_weights=False)
        x = x + mixed.mT.reshape(x.shape)
        for up in self.up:
            x = up(x, skips.pop())
        return self.last(x)


def picture_and_step(rows: int = 2):
    return {"image": torch.zeros(rows, 3, 9, 12), "step": torch.arange(rows)}


UNET = Family("unet", UNet, picture_and_step, generates=False)


@pytest.mark.parametrize("name", NAMES)
def test_operations_of_a_family(name):
    family = FAMILIES[name]
    paths = {}
    for path, part in family.build_on_meta().named_modules():
        kind = next((end for end in INNER if type(part).__name__.endswith(end)), None)
        if not path or kind is not None:
            paths.setdefault(kind, path)
    compared, differing = differing_operations(family, list(paths.values()))

    assert [] == differing
    assert compared > 30


def test_operations_of_a_net_of_convolutions():
    compared, differing = differing_operations(UNET, ["", "down.1", "up.0"])

    assert [] == differing
    assert compared > 80
