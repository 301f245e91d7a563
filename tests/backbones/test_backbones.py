"""What both text backbones promise: start, gradients, conditions, padding, any size, refusals."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from pathline.types import Call, Cond

GOLDEN = Path(__file__).parents[1] / "golden" / "text_dits.py"
CONDITIONS = [  # classes, text, pooled
    (0, 0, 0),
    (3, 0, 0),
    (0, 6, 0),
    (0, 0, 5),
    (3, 6, 5),
]
pytestmark = pytest.mark.usefixtures("seeded")
named = pytest.mark.parametrize("name", ["cross_dit", "stream_dit"])
conditioned = pytest.mark.parametrize(("classes", "text", "pooled"), CONDITIONS)


def row(cond, i):
    return Cond(*(None if c is None else c[i : i + 1] for c in cond))


def idle(network, *args):
    """The parameters that a squared output teaches nothing."""
    network.zero_grad()
    network(*args).value.square().mean().backward()
    return [
        n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]


@named
@conditioned
def test_starts_at_zero_and_every_weight_can_learn(
    name, classes, text, pooled, build, perturb, inputs
):
    network = build(name, classes, text, pooled)
    args = inputs(network)
    assert network(*args).value.abs().max() == 0
    assert idle(perturb(network), *args) == []
    out = network(*args)
    assert out.value.shape == (3, 2, 4, 6)
    assert out.hidden.shape == (3, 6, 32)


SETTINGS = [
    ("cross_dit", {"mlp": "swiglu", "qk_norm": True, "bottleneck": 4, "extrapolate": "none"}),
    ("cross_dit", {"takes_r": True, "outputs": 4}),
    ("stream_dit", {"modulation": "block", "positions": "both", "takes_r": True}),
    ("stream_dit", {"modulation": "lowrank", "rank": 3, "bias": True, "extrapolate": "ntk"}),
    ("stream_dit", {"refiners": 0, "qk_norm": False, "bottleneck": 4}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_every_weight_can_learn_with_the_remaining_settings(name, settings, build, perturb, inputs):
    network = build(name, 3, 6, 5, **settings)
    args = inputs(network)
    assert network(*args).value.abs().max() == 0
    assert idle(perturb(network), *args) == []


@named
def test_weights_are_reached_from_the_start_on(name, build, inputs):
    """Nothing but the last layer at first; everything after three updates."""
    network = build(name, 3, 6, 5)
    args = inputs(network)
    taught, optimizer = set(), torch.optim.SGD(network.parameters(), lr=0.5)
    for update in range(4):
        network.zero_grad()
        (network(*args).value - args[0]).square().mean().backward()
        now = {n for n, p in network.named_parameters() if p.grad.abs().sum() > 0}
        assert update or now == {"final.linear.weight", "final.linear.bias"}
        taught |= now
        optimizer.step()
    assert taught == {n for n, _ in network.named_parameters()}


@named
def test_a_weight_that_is_not_used_is_found(name, build, perturb, inputs):
    network = perturb(build(name))
    network.blocks[1].attention.more = nn.Parameter(torch.ones(2))
    nn.init.zeros_(network.blocks[0].mlp.down.weight)
    found = idle(network, *inputs(network))
    assert {"blocks.0.mlp.up.weight", "blocks.1.attention.more"} <= set(found)
    assert not any(n.startswith("blocks.1.mlp") for n in found)


def test_golden_numbers():
    module = runpy.run_path(str(GOLDEN))
    stored = json.loads(module["FILE"].read_text())
    found = module["numbers"]()
    assert found.keys() == stored.keys()
    for name, numbers in stored.items():
        assert found[name] == pytest.approx(numbers, rel=1e-4, abs=1e-5), name


@named
def test_padding_is_not_heard(name, build, perturb, inputs):
    network = perturb(build(name))
    x, t, cond, _ = inputs(network)
    plain = network(x, t, cond).value
    noisy = torch.where(cond.mask[..., None], cond.tokens, 9 * torch.randn(3, 5, 6))
    torch.testing.assert_close(network(x, t, cond._replace(tokens=noisy)).value, plain)
    heard = network(x, t, cond._replace(tokens=cond.tokens * torch.randn(3, 5, 6))).value
    assert (heard - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-4  # the words are


@named
def test_longer_padding_and_no_mask_change_nothing(name, build, perturb, inputs):
    network = perturb(build(name))
    x, t, _, _ = inputs(network)
    tokens = torch.randn(3, 2, 6)
    bare = network(x, t, Cond(tokens)).value
    padded = torch.cat([tokens, torch.randn(3, 9, 6)], dim=1)
    mask = (torch.arange(11) < 2).expand(3, 11)
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(network(x, t, Cond(padded, mask)).value, bare, **close)
    assert not torch.allclose(network(x, t, Cond(padded)).value, bare, atol=1e-3)


@named
def test_a_picture_does_not_feel_its_batch(name, build, perturb, inputs):
    network = perturb(build(name, 3, 6, 5))
    x, t, cond, _ = inputs(network)
    together = network(x, t, cond).value
    close = {"atol": 1e-5, "rtol": 1e-5}
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1], row(cond, i)).value
        torch.testing.assert_close(alone, together[i : i + 1], **close)
    turned = Cond(*(c if c is None else c.flip(0) for c in cond))
    swapped = network(x.flip(0), t.flip(0), turned).value
    torch.testing.assert_close(swapped.flip(0), together, **close)


@named
def test_one_row_of_condition_serves_all(name, build, perturb, inputs):
    network = perturb(build(name, 3, 6, 5))
    x, t, cond, _ = inputs(network)
    one = row(cond, 1)
    spread = Cond(*(None if c is None else c.expand(3, *c.shape[1:]) for c in one))
    torch.testing.assert_close(network(x, t, one).value, network(x, t, spread).value)


@named
def test_the_order_of_patches_is_told(name, build, perturb, inputs):
    network = perturb(build(name))
    x, t, cond, _ = inputs(network, size=(4, 4))
    turned = network(x.transpose(2, 3), t, cond).value.transpose(2, 3)
    assert (turned - network(x, t, cond).value).abs().max() > 1e-3


@named
def test_pictures_of_any_size(name, build, perturb, inputs):
    network = perturb(build(name))
    for height, width in ((4, 6), (2, 2), (8, 4), (6, 14)):
        x, t, cond, _ = inputs(network, size=(height, width))
        out = network(x, t, cond)
        assert out.value.shape == x.shape
        assert out.hidden.shape == (3, height * width // 4, 32)
    assert idle(network, x, t, cond) == []


@named
def test_what_a_size_gives_does_not_depend_on_sizes_before(name, build, perturb, inputs):
    network = perturb(build(name))
    args = inputs(network, size=(8, 10))
    before = network(*args).value
    network(*inputs(network, length=8, size=(2, 6)))
    assert torch.equal(network(*args).value, before)


@named
def test_times_labels_and_pooled_text_are_heard(name, build, perturb, inputs):
    network = perturb(build(name, 3, 6, 5, takes_r=True))
    x, t, cond, call = inputs(network)
    plain = network(x, t, cond, call).value
    for changed in (
        network(x, t + 0.01, cond, Call(call.r + 0.01)).value,
        network(x, t, cond, Call(call.r + 0.01)).value,
        network(x, t, cond._replace(labels=(cond.labels + 1) % 4), call).value,
        network(x, t, cond._replace(pooled=cond.pooled.flip(1)), call).value,
    ):
        assert (changed - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-5


@named
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 34}, "4 divides, got 34|even width of at least 6, got 17"),
        ({"width": 32, "heads": 3}, "32 can't be split among 3 heads"),
        ({"patch": 4}, "width 6 is no multiple of 4. Nearest: 4 or 8"),
        ({"size": "S/7"}, "no (cross|stream)_dit size 'S/7'. Did you mean 'S/"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name, settings, message, build):
    with pytest.raises(ValueError, match=message):
        build(name, **settings)


@named
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 2, 5, 6)}, "height 5 is no multiple of 2. Nearest: 4 or 6"),
        ({"x": torch.zeros(3, 3, 4, 6)}, "images of 2 channels, got 3"),
        ({"cond": Cond()}, "has no tokens, .* built with them"),
        ({"cond": Cond(torch.zeros(3, 1, 6), labels=torch.zeros(3).long())}, "has labels"),
        ({"cond": Cond(torch.zeros(3, 1, 6), pooled=torch.zeros(3, 4))}, "has pooled"),
        ({"call": Call(torch.ones(3))}, "takes_r=true"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, change, message, build, inputs):
    network = build(name)
    x, t, cond, call = inputs(network)
    given = {"x": x, "t": t, "cond": cond, "call": call, **change}
    with pytest.raises(ValueError, match=message):
        network(**given)


@named
def test_a_later_time_is_asked_for(name, build, inputs):
    network = build(name, takes_r=True)
    x, t, cond, _ = inputs(network)
    with pytest.raises(ValueError, match="needs the later time r"):
        network(x, t, cond)
