"""DDT: the zero start, what the decoder hears, encoder sharing by count and by brute force."""

import json
import runpy
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch

from pathline.backbones.ddt import SHAPES, ddt
from pathline.backbones.encoder_sharing import every, program, share_encoder, step_similarity
from pathline.backbones.table import BACKBONES
from pathline.config.pick import function_of
from pathline.flow.guidance import cfg, interval
from pathline.flow.paths import STRAIGHT
from pathline.flow.solvers import STEPS, integrate, last
from pathline.flow.times import uniform_grid
from pathline.objectives.flow import flow
from pathline.types import Call, Cond, Frame

GOLDEN = Path(__file__).parents[1] / "golden" / "ddt.py"
FRAME = Frame(2, 4, 6, classes=3)
TINY = {"depth": 2, "decoder": 1, "width": 16, "heads": 2, "patch": 2}
READ = flow(STRAIGHT).field


def build(frame=FRAME, **settings):
    torch.manual_seed(0)
    return ddt(frame, **{**TINY, **settings})


def perturb(network, size=0.2):
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * size)
    return network


def some(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(network, rows=3):
    frame, t = network.frame, torch.linspace(0.1, 0.9, rows)
    labels = torch.arange(rows) % 4 if frame.classes else None
    text = (some(rows, 5, 6), torch.ones(rows, 5).bool()) if frame.text_width else (None, None)
    r = (t + 1) / 2 if network.shape.takes_r else None
    return some(rows, frame.channels, 4, 6), t, Cond(*text, labels=labels), Call(r)


@pytest.mark.parametrize("modulation", ["block", "shared", "lowrank"])
@pytest.mark.parametrize(("classes", "text"), [(0, 0), (3, 6)])
@pytest.mark.parametrize(
    "extra",
    [
        {"takes_r": True, "positions": "sincos", "norm": "layer", "mlp": "gelu", "qk_norm": False},
        {"bottleneck": 4, "positions": "rope", "bias": False},
    ],
)
def test_it_starts_at_zero_and_teaches_every_weight(modulation, classes, text, extra):
    network = build(Frame(2, 4, 6, classes, text), modulation=modulation, rank=3, **extra)
    args = inputs(network)
    assert network(*args).value.abs().max() == 0
    out = perturb(network)(*args)
    assert out.value.shape == (3, 2, 4, 6)
    assert out.hidden.shape == (3, 6, 16)
    out.value.square().mean().backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert idle == []


def test_the_first_gradient_reaches_the_last_layer_only():
    network = build()
    x, *args = inputs(network)
    (network(x, *args).value - x).square().mean().backward()
    taught = {name for name, p in network.named_parameters() if p.grad.abs().sum() > 0}
    assert taught == {"decoder.final.weight", "decoder.final.bias"}


def test_published_depths():
    published = {"B/2": (8, 4), "L/2": (20, 4), "XL/2": (22, 6)}
    assert {name: (SHAPES[name].depth, SHAPES[name].decoder) for name in published} == published
    with torch.device("meta"):
        network = ddt(Frame(4, 32, 32, classes=1000), size="B/2")
    assert (len(network.encoder.blocks), len(network.decoder.blocks)) == (8, 4)
    assert function_of(BACKBONES["ddt"]) is ddt


def test_weights_more_than_the_official_network_has_are_those_on_the_page():
    with torch.device("meta"):
        network = ddt(Frame(4, 32, 32, classes=1000), size="XL/2")
    extra = {
        "attention.qkv.bias": 0,
        "mlp.up.bias": 0,
        "mlp.down.bias": 0,
        "decoder.norm.weight": 0,
    }
    for name, p in network.named_parameters():
        for ending in extra:
            extra[ending] += p.numel() * name.endswith(ending)
    assert list(extra.values()) == [96_768, 172_032, 32_256, 1_152]
    count = sum(p.numel() for p in network.parameters())
    assert (count, count - sum(extra.values())) == (674_948_560, 674_646_352)
    page = (Path(__file__).parents[2] / "docs/methods/ddt.md").read_text("utf-8")
    assert all(f"{number:,}" in page for number in (count, count - 302_208, *extra.values()))


def test_hidden_states_may_be_handed_back():
    network = perturb(build())
    x, t, cond, call = inputs(network)
    once, calls = network(x, t, cond), []
    network.encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(network(x, t, cond, call._replace(hidden=once.hidden)).value, once.value)
    later = network(x, t + 0.05, cond, call._replace(hidden=once.hidden)).value
    assert (later - once.value).abs().amax((1, 2, 3)).min() > 1e-5  # the decoder knows the time
    moved = network(x + 0.1, t, cond, call._replace(hidden=once.hidden)).value
    assert (moved - once.value).abs().amax((1, 2, 3)).min() > 1e-5  # and sees x
    assert calls == []


def test_the_condition_comes_through_hidden_states_alone():
    network = perturb(build())
    x, t, cond, call = inputs(network)
    once, other = network(x, t, cond), Cond(labels=(cond.labels + 1) % 4)
    assert torch.equal(network(x, t, other, call._replace(hidden=once.hidden)).value, once.value)
    assert (network(x, t, other).value - once.value).abs().max() > 1e-4


def test_every_token_is_steered_by_its_own():
    """With attention silent, a change of one hidden token reaches that token's patch alone."""
    network = perturb(build())
    with torch.no_grad():
        network.decoder.blocks[0].attention.out.weight.zero_()
    x, t, cond, call = inputs(network)
    hidden = some(3, 6, 16, seed=5)
    plain = network(x, t, cond, call._replace(hidden=hidden)).value
    hidden[:, 4] += some(3, 16, seed=6)  # of 2 rows and 3 columns
    off = (network(x, t, cond, call._replace(hidden=hidden)).value - plain).abs()
    assert off[:, :, 2:, 2:4].amax((1, 2, 3)).min() > 1e-4
    off[:, :, 2:, 2:4] = 0
    assert off.max() < 1e-6


def test_checkpointing_gives_the_same_gradients():
    plain, saving = perturb(build()), build(checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    for network in (plain, saving):
        network(*inputs(network)).value.square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_autocast_keeps_the_stream_wide():
    network = perturb(build())
    args = inputs(network)
    exact = network(*args)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*args)
    assert out.hidden.dtype == torch.float32
    torch.testing.assert_close(out.value.float(), exact.value, atol=0.15, rtol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "B/3"}, "no DDT size 'B/3'. Did you mean 'B/2'"),
        ({"patch": 4}, "no multiple of 4"),
        ({"width": 20, "heads": 3}, "20 can't be split among 3 heads"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


GRID = uniform_grid(8)


def walked(network, times, step="euler", guide=None):
    """The end of a walk over GRID, and how often encoder and decoder ran."""
    counts = {"encoder": 0, "decoder": 0}
    hooks = []
    for name in counts:

        def note(*_, name=name):
            counts[name] += 1

        hooks.append(getattr(network, name).register_forward_hook(note))
    x0 = some(3, 2, 4, 6, seed=7)
    conds = Cond(labels=torch.tensor([0, 1, 2])), Cond(labels=torch.tensor([3, 3, 3]))
    fields = [share_encoder(READ, network, cond, times) for cond in conds]
    with torch.no_grad():
        field, solver = guide(*fields) if guide else fields[0], function_of(STEPS[step])
        end = last(integrate(field, x0, GRID, solver))
    for hook in hooks:
        hook.remove()
    return end, counts["encoder"], counts["decoder"]


def test_sharing_nothing_is_the_plain_walk():
    network = perturb(build())
    plain, *_ = walked(network, ())
    all_of_them, encoder, decoder = walked(network, GRID[:-1])
    assert torch.equal(all_of_them, plain)
    assert (encoder, decoder) == (8, 8)


@pytest.mark.parametrize(("steps", "calls"), [(1, 8), (2, 4), (3, 3), (8, 1), (20, 1)])
def test_the_encoder_runs_as_often_as_planned(steps, calls):
    network = perturb(build())
    times = every(GRID, steps=steps)
    assert len(times) == calls
    assert walked(network, times)[1:] == (calls, 8)
    assert walked(network, times, "heun")[1:] == (calls, 16)
    guided = walked(network, times, guide=partial(cfg, scale=2.0))
    assert guided[1:] == (2 * calls, 16)


def test_conditions_share_nothing_with_one_another():
    """Guided and shared: as two walks' fields, each with its own hidden states."""
    network = perturb(build())
    both, *_ = walked(network, every(GRID, steps=4), guide=partial(cfg, scale=0.0))
    conds = Cond(labels=torch.tensor([3, 3, 3]))
    null = share_encoder(READ, network, conds, every(GRID, steps=4))
    with torch.no_grad():
        alone = last(integrate(null, some(3, 2, 4, 6, seed=7), GRID))
    torch.testing.assert_close(both, alone)


def test_what_is_asked_in_an_interval_runs_there():
    network = perturb(build())
    guide = partial(interval, scale=2.0, low=0.3, high=0.7)  # steps 3, 4, 5 of 0 … 7
    assert walked(network, every(GRID, steps=4), guide=guide)[1:] == (2 + 2, 8 + 3)


def test_sharing_changes_the_walk_a_little():
    network = perturb(build(), 0.1)
    plain, half, once = (walked(network, every(GRID, steps=k))[0] for k in (1, 2, 8))
    assert 0 < (half - plain).norm() < (once - plain).norm()


def lost(similarity, runs):
    """What steps lose if the encoder runs at these."""
    at = [max(run for run in runs if run <= i) for i in range(len(similarity))]
    return sum(1 - similarity[i, j].item() for i, j in enumerate(at))


def similar(n, seed):
    """States that drift, at uneven speed."""
    speed = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed)) ** 3
    return step_similarity(
        list((some(1, 6, seed=seed) + speed.cumsum(0) * some(1, 6, seed=seed + 1))[:, None, None])
    )


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("seed", range(3))
def test_the_program_is_the_best_of_all_plans(n, seed):
    similarity, grid = similar(n, seed), uniform_grid(n)
    for calls in range(1, n + 1):
        found = program(grid, lambda: similarity, calls=calls)
        runs = [grid.index(t) for t in found]
        plans = [(0, *rest) for rest in combinations(range(1, n), calls - 1)]
        best = min(lost(similarity, plan) for plan in plans)
        assert len(found) == calls
        assert runs == sorted(set(runs))
        assert runs[0] == 0
        assert lost(similarity, runs) == pytest.approx(best, abs=1e-12)
    assert lost(similarity, runs) == pytest.approx(0, abs=1e-12)  # at every step


def test_the_program_is_no_worse_than_an_even_plan():
    n = 24
    similarity, grid = similar(n, 5), uniform_grid(n)
    for steps in (2, 3, 4, 6, 8, 12):
        even = [grid.index(t) for t in every(grid, steps=steps)]
        runs = [grid.index(t) for t in program(grid, lambda: similarity, calls=len(even))]
        assert lost(similarity, runs) <= lost(similarity, even) + 1e-12
    assert lost(similarity, runs) < 0.8 * lost(similarity, even)  # uneven speed: there is a gain


def test_likeness_is_a_mean_cosine():
    one = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    other = torch.tensor([[[1.0, 1.0], [0.0, 5.0]]])
    found = step_similarity([one, 3 * one, other, -one])
    assert found.dtype == torch.float64
    right = [1.0, 1.0, (0.5**0.5 + 1) / 2, -1.0]
    assert found[0].tolist() == pytest.approx(right)
    assert torch.equal(found, found.T)


def test_a_plan_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="runs 1 to 8 times"):
        program(GRID, lambda: similar(8, 0), calls=9)
    with pytest.raises(ValueError, match="8 steps but 16 evaluations"):
        program(GRID, lambda: torch.eye(16), calls=2)


def test_golden_numbers():
    module = runpy.run_path(str(GOLDEN))
    stored = json.loads(module["FILE"].read_text())
    for name, numbers in module["numbers"]().items():
        assert numbers == pytest.approx(stored[name], rel=1e-4, abs=1e-5), name
