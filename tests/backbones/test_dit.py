"""DiT: its start, identities, conditions, refused inputs, golden numbers."""

import json
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from pathline.backbones.dit import dit
from pathline.types import Call, Cond, Frame

GOLDEN = Path(__file__).parents[1] / "golden" / "dit.py"
TINY = {"depth": 2, "width": 16, "heads": 2, "patch": 2}
LABELLED = Frame(2, 4, 6, classes=3)


def build(frame=LABELLED, **settings):
    torch.manual_seed(0)
    return dit(frame, **{**TINY, **settings})


def perturb(network, size=0.2):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * size)
    return network


def inputs(network, batch=3, length=5):
    """Random inputs of whatever kinds the network takes."""
    frame, g = network.frame, torch.Generator().manual_seed(2)
    x = torch.randn(batch, frame.channels, frame.height, frame.width, generator=g)
    t = torch.rand(batch, generator=g)
    labels = torch.randint(frame.classes + 1, (batch,), generator=g) if frame.classes else None
    tokens = mask = None
    if frame.text_width:
        tokens = torch.randn(batch, length, frame.text_width, generator=g)
        mask = torch.arange(length) < torch.tensor([1, 3, length])[:batch, None]
    r = (t + 1) / 2 if network.shape.takes_r else None
    return x, t, Cond(tokens, mask, labels=labels), Call(r)


FLAGS = {
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "swiglu"),
    "qk_norm": (False, True),
    "positions": ("sincos", "rope", "both"),
    "modulation": ("block", "shared", "lowrank"),
}
CONDITIONS = [(0, 0), (3, 0), (0, 6), (3, 6)]
COMBINATIONS = list(product(*FLAGS.values()))


@pytest.mark.parametrize("index", range(len(COMBINATIONS)))
def test_every_combination_starts_at_zero_and_teaches_every_weight(index):
    settings = dict(zip(FLAGS, COMBINATIONS[index], strict=True))
    classes, text = CONDITIONS[index // 3 % 4]
    network = build(Frame(2, 4, 6, classes, text), rank=3, **settings)
    args = inputs(network)
    assert network(*args).value.abs().max() == 0
    out = perturb(network)(*args)
    assert out.value.shape == (3, 2, 4, 6)
    assert out.hidden.shape == (3, 6, 16)
    out.value.square().mean().backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize(("classes", "text"), CONDITIONS)
@pytest.mark.parametrize("extra", [{"bottleneck": 4}, {"takes_r": True}, {"bias": False}])
def test_every_condition_with_the_remaining_settings(classes, text, extra):
    network = perturb(build(Frame(2, 4, 6, classes, text), **extra))
    network(*inputs(network)).value.square().mean().backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("modulation", FLAGS["modulation"])
def test_blocks_are_identities_at_the_start(modulation):
    network = build(modulation=modulation)
    x, signal = torch.randn(3, 6, 16), torch.randn(3, 16)
    if network.shared is not None:
        signal = network.shared(signal)
    for block in network.blocks:
        assert torch.equal(block(x, signal), x)


def test_the_first_gradient_reaches_the_last_layer_only():
    network = build()
    x, t, cond, _ = inputs(network)
    (network(x, t, cond).value - x).square().mean().backward()
    taught = {name for name, p in network.named_parameters() if p.grad.abs().sum() > 0}
    assert taught == {"final.linear.weight", "final.linear.bias"}


def test_golden_numbers():
    module = runpy.run_path(str(GOLDEN))
    stored = json.loads(module["FILE"].read_text())
    found = module["numbers"]()
    assert found.keys() == stored.keys()
    for name, numbers in stored.items():
        assert found[name] == pytest.approx(numbers, rel=1e-4, abs=1e-5), name


def test_shape_of_the_official_state():
    """The names that official weights are mapped to, and their layout."""
    network = build(Frame(4, 8, 8, classes=10), outputs=8)
    shapes = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    assert shapes["patch.weight"] == (16, 2 * 2 * 4)
    assert shapes["label_table.weight"] == (11, 16)
    assert shapes["blocks.1.attention.qkv.weight"] == (48, 16)
    assert shapes["blocks.1.modulation.linear.weight"] == (96, 16)
    assert shapes["time.up.weight"] == (16, 256)
    assert shapes["final.linear.weight"] == (2 * 2 * 8, 16)
    assert not any("places" in name or "turn" in name for name in shapes)


def test_value_is_the_first_channels_of_more_outputs():
    network = perturb(build(Frame(2, 4, 6), outputs=4))
    x, t, cond, _ = inputs(network)
    narrow = build(Frame(2, 4, 6))
    state = network.state_dict()
    for part in ("weight", "bias"):
        whole = state[f"final.linear.{part}"]
        kept = whole.view(4, 4, *whole.shape[1:])[:, :2]  # pixel, channel
        state[f"final.linear.{part}"] = kept.reshape(8, *whole.shape[1:])
    narrow.load_state_dict(state)
    torch.testing.assert_close(network(x, t, cond).value, narrow(x, t, cond).value)


@pytest.mark.parametrize("positions", FLAGS["positions"])
def test_padding_is_not_heard(positions):
    network = perturb(build(Frame(2, 4, 6, text_width=6), positions=positions))
    x, t, cond, _ = inputs(network)
    plain = network(x, t, cond).value
    noisy = torch.where(cond.mask[..., None], cond.tokens, 9 * torch.randn(3, 5, 6))
    torch.testing.assert_close(network(x, t, cond._replace(tokens=noisy)).value, plain)
    heard = network(x, t, cond._replace(tokens=cond.tokens * torch.randn(3, 5, 6))).value
    assert (heard - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-4  # the words are


def test_longer_padding_and_no_mask_change_nothing():
    network = perturb(build(Frame(2, 4, 6, text_width=6), positions="both"))
    x, t, _, _ = inputs(network)
    tokens = torch.randn(3, 2, 6)
    bare = network(x, t, Cond(tokens)).value
    padded = torch.cat([tokens, torch.randn(3, 4, 6)], dim=1)
    mask = (torch.arange(6) < 2).expand(3, 6)
    torch.testing.assert_close(network(x, t, Cond(padded, mask)).value, bare, atol=1e-5, rtol=1e-4)


def test_a_picture_does_not_feel_its_batch():
    network = perturb(build(Frame(2, 4, 6, 3, 6), positions="both", qk_norm=True))
    x, t, cond, _ = inputs(network)
    together = network(x, t, cond).value
    for i in range(3):
        row = Cond(*(None if c is None else c[i : i + 1] for c in cond))
        alone = network(x[i : i + 1], t[i : i + 1], row).value
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-5)


def test_one_row_of_condition_serves_all():
    network = perturb(build(Frame(2, 4, 6, 3, 6)))
    x, t, cond, _ = inputs(network)
    row = Cond(*(None if c is None else c[1:2] for c in cond))
    spread = Cond(*(None if c is None else c.expand(3, *c.shape[1:]) for c in row))
    torch.testing.assert_close(network(x, t, row).value, network(x, t, spread).value)


def test_positions_tell_tokens_apart():
    for positions in FLAGS["positions"]:
        network = perturb(build(Frame(2, 4, 4), positions=positions))
        x, t, cond, _ = inputs(network)
        turned = network(x.transpose(2, 3), t, cond).value.transpose(2, 3)
        assert (turned - network(x, t, cond).value).abs().max() > 1e-3


@pytest.mark.parametrize("text", [0, 6])
def test_checkpointing_gives_the_same_gradients(text):
    plain = perturb(build(Frame(2, 4, 6, 3, text), positions="both"))
    saving = build(Frame(2, 4, 6, 3, text), positions="both", checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    for network in (plain, saving):
        network(*inputs(network)).value.square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


COMPILED = """
import torch
from pathline.backbones.dit import dit
from pathline.types import Call, Cond, Frame

torch.manual_seed(0)
network = dit(Frame(2, 4, 6, 3, 6), depth=2, width=16, heads=2, patch=2, positions="both")
for p in network.parameters():
    torch.nn.init.normal_(p, std=0.2)
cond = Cond(torch.randn(3, 5, 6), torch.ones(3, 5).bool(), labels=torch.tensor([0, 3, 1]))
args = torch.randn(3, 2, 4, 6), torch.rand(3), cond
found = []
for called in (network, torch.compile(network, fullgraph=True)):
    value = called(*args).value
    grads = torch.autograd.grad(value.square().mean(), list(network.parameters()))
    found.append((value, *grads))
torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)
"""


@pytest.mark.slow
def test_compiling_whole_changes_nothing():
    """In a process of its own: the checkers of shapes in the tests can't be compiled."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_times_and_labels_are_heard():
    network = perturb(build(takes_r=True))
    x, t, cond, r = inputs(network)
    plain = network(x, t, cond, r).value
    for changed in (
        network(x, t + 0.01, cond, Call(r.r + 0.01)).value,
        network(x, t, cond, Call(r.r + 0.01)).value,
        network(x, t, Cond(labels=(cond.labels + 1) % 4), r).value,
    ):
        assert (changed - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-5


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_autocast_keeps_the_stream_wide(positions):
    network = perturb(build(Frame(2, 4, 6, 3, 6), positions=positions))
    args = inputs(network)
    exact = network(*args)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*args)
    assert out.hidden.dtype == torch.float32
    torch.testing.assert_close(out.value.float(), exact.value, atol=0.1, rtol=0.1)


def test_a_network_cast_whole_runs():
    network = perturb(build(Frame(2, 4, 6, 3, 6), positions="both")).bfloat16()
    x, t, cond, _ = inputs(network)
    out = network(x.bfloat16(), t, cond._replace(tokens=cond.tokens.bfloat16()))
    assert out.value.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 2, 6, 6)}, "images of 2x4x6 .* got 2x6x6"),
        ({"cond": Cond()}, "has no labels, .* built with them"),
        ({"cond": Cond(torch.zeros(3, 1, 6), labels=torch.zeros(3).long())}, "has tokens"),
        ({"call": Call(torch.ones(3))}, "takes_r=true"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    network = build()
    x, t, cond, r = inputs(network)
    given = {"x": x, "t": t, "cond": cond, "call": r, **change}
    with pytest.raises(ValueError, match=message):
        network(**given)


def test_a_later_time_is_asked_for():
    network = build(takes_r=True)
    x, t, cond, _ = inputs(network)
    with pytest.raises(ValueError, match="needs the later time r"):
        network(x, t, cond)
