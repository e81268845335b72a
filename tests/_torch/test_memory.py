"""What many invokes need at their peak, beside one batched forward with hooks.

Counted by torch's own profiler, allocation by allocation: nothing here depends on the machine.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.profiler import profile

from tracekit import Model

COUNT = 100
WIDTH = 32


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(5)))


def peak_bytes(work):
    """Give the most bytes of tensors that were alive at once, and what *work* returned."""
    with profile(use_cpu=True, profile_memory=True) as profiled:
        returned = work()
    events = [e for e in profiled.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most, returned


def by_hooks(net, inputs, double):
    kept = []

    def keep(_module, _args, output):
        kept.append(output)

    def edit(_module, _args, output):
        return output * 2 if torch.is_grad_enabled() else output.mul_(2)

    handles = [net[1].register_forward_hook(keep)]
    if double:
        handles.append(net[2].register_forward_hook(edit))
    try:
        return kept, net(torch.cat(inputs))
    finally:
        for handle in handles:
            handle.remove()


def by_invokes(model, inputs, double):
    kept = []
    with model.trace() as tracer:
        for each in inputs:
            with tracer.invoke(each):
                kept.append(model[1].output)
                if double:
                    model[2].output *= 2
        with tracer.invoke():
            out = model.output
    return kept, out


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_100_invokes_need_little_more_than_one_batch(clean, net, grad, double):
    """At most 1.2 times as much; with gradients on, and a copy of each site that was looked at."""
    model = Model(clean(net))
    inputs = [torch.randn(1, 8, WIDTH) for _ in range(COUNT)]
    with torch.set_grad_enabled(grad):
        hooks, (read, expected) = peak_bytes(lambda: by_hooks(net, inputs, double))
        needed, (parts, out) = peak_bytes(lambda: by_invokes(model, inputs, double))

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.cat(parts), read[0])
    one_site = read[0].numel() * read[0].element_size()
    copies = (2 if double else 1) * one_site if grad else 0
    assert hooks > 5 * one_site
    assert needed <= 1.2 * hooks + copies
    if not grad:
        # Rows are views of the model's own value.
        assert needed <= hooks + one_site // 10
