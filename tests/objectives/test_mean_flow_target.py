"""What the lift's forward derivative costs, and that thrift changes no number."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pathline.backbones.dit import dit
from pathline.objectives import mean_flow_target as lift
from pathline.types import Call, Cond, Frame


def network() -> nn.Module:
    torch.manual_seed(0)
    made = dit(
        Frame(1, 8, 8, classes=3), width=32, depth=2, heads=2, patch=2, norm="rms", takes_r=True
    )
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return made


@pytest.fixture
def asked():
    made, cond = network(), Cond(labels=torch.arange(4) % 3)
    x, v = torch.randn(2, 4, 1, 8, 8).unbind()
    t = torch.tensor([0.1, 0.2, 0.3, 0.4])

    def average(x, t, r):
        return made(x, t, cond, Call(r)).value

    return average, x, t, t + 0.4, v


def test_lean_linear_layers_change_no_bit(asked, monkeypatch) -> None:
    lean = lift.exact(*asked).constant
    monkeypatch.setattr(lift, "Lean", contextlib.nullcontext)
    assert lean.abs().max() > 0
    assert torch.equal(lean, lift.exact(*asked).constant)


def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_the_derivative_costs_one_more_forward_pass(asked, monkeypatch) -> None:
    average, x, t, r, _ = asked
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        forward = counted(lambda: average(x, t, r))
    assert counted(lambda: lift.exact(*asked)) < 2.1 * forward
    monkeypatch.setattr(lift, "Lean", contextlib.nullcontext)
    assert counted(lambda: lift.exact(*asked)) > 2.7 * forward
