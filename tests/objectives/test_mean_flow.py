"""Mean flow against data whose average velocity is known: N(mean, spread²), number by number."""

import subprocess
import sys
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from pathline.backbones.dit import dit
from pathline.config.pick import function_of
from pathline.flow.couplings import independent
from pathline.flow.guidance import cfg
from pathline.flow.paths import PATHS, STRAIGHT, draw_point
from pathline.flow.solvers import euler, integrate, jump, last, midpoint
from pathline.flow.times import uniform_draw, uniform_grid
from pathline.objectives.alpha_flow import alpha_flow
from pathline.objectives.flow import flow
from pathline.objectives.mean_flow import _differs, improved_mean_flow, mean_flow
from pathline.objectives.mean_flow_target import between, difference, exact
from pathline.objectives.table import OBJECTIVES
from pathline.objectives.terms import TERMS, compose
from pathline.training.distributed import joined, wrap
from pathline.types import Batch, Call, Cond, Frame, Output

MEAN, SPREAD = 0.7, 0.5
MSE = compose({"mse": (1.0, TERMS["mse"])})
FAMILY = {"mean_flow": mean_flow, "improved_mean_flow": improved_mean_flow}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


def drawing(x1, cond, generator, path=STRAIGHT):
    return draw_point(x1, cond, generator, path=path, draw=uniform_draw, couple=independent)


def batch_of(x1, cond=None, null=None):
    return Batch(x1, cond or Cond(), null or Cond(), torch.arange(len(x1)))


def classes(count, of=3):
    return Cond(labels=torch.arange(count) % of), Cond(labels=torch.tensor([of]))


def wide(t):
    return ((1 - t) ** 2 + (t * SPREAD) ** 2).view(-1, 1, 1, 1)


def true_average(x, t, r):
    """Where the flow carries x from t to r, less x, a time: free of 0 / 0 at r = t."""
    here, there = wide(t), wide(r)
    t, r = t.view(-1, 1, 1, 1), r.view(-1, 1, 1, 1)
    rate = ((1 + SPREAD**2) * (t + r) - 2) / (here.sqrt() * (here.sqrt() + there.sqrt()))
    return MEAN + rate * (x - t * MEAN)


def true_velocity(x, t):
    return true_average(x, t, t)


def oracle(x, t, _cond, call):
    return Output(true_average(x, t, call.r))


def way(count, dtype=torch.float64):
    """Points, times and later times."""
    t, r = torch.rand(2, count, generator=rng(3), dtype=dtype).sort(0).values
    return some(count, 1, 2, 2, dtype=dtype), t, r


def tiny(**options):
    torch.manual_seed(0)
    return dit(Frame(1, 4, 4, classes=3), width=16, depth=1, heads=2, patch=2, **options)


def awake(**options):
    """A network whose output depends on all that it is given."""
    network = tiny(takes_r=True, time_scale=1.0, **options)
    with torch.no_grad():
        for index, p in enumerate(network.parameters()):
            p.add_(some(*p.shape, seed=index), alpha=0.15)
    return network


# --- the identity and its derivative


def test_the_average_is_the_velocity_and_its_lift():
    x, t, r = way(500)
    v = true_velocity(x, t)
    lift = exact(true_average, x, t, r, v).constant
    torch.testing.assert_close(true_average(x, t, r), v + lift)
    wrong = exact(true_average, x, t, r, v + 1).constant
    assert (wrong - lift).abs().mean() > 0.1


@pytest.mark.parametrize("step", [0.001, 0.005])
def test_differences_agree_with_the_derivative(step):
    x, t, r = way(500)
    v = some(500, 1, 2, 2, seed=4, dtype=torch.float64)
    exactly, nearly = (
        lift(true_average, x, t, r, v).constant for lift in (exact, partial(difference, step=step))
    )
    error = (exactly - nearly).square().mean().sqrt() / exactly.square().mean().sqrt()
    assert error < 40 * step**2 + 2 * step * (t < step).double().mean()


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "norm": "rms", "positions": "both"}])
def test_differences_agree_with_the_derivative_of_a_network(options):
    network, (x, t, r) = awake(**options), way(6, torch.float32)
    x, v = some(6, 1, 4, 4), some(6, 1, 4, 4, seed=1)
    cond, _ = classes(6)

    def average(x, t, r):
        return network(x, t, cond, Call(r)).value

    found = exact(average, x, t, r, v).constant
    wanted = difference(average, x, t, r, v).constant
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=1e-3)
    assert found.abs().mean() > 0.01
    assert not found.requires_grad


def test_what_asks_nothing_of_its_inputs_has_no_lift():
    x, t, r = way(3)
    assert not exact(lambda x, _t, _r: torch.ones_like(x).detach(), x, t, r, x).constant.any()


# --- the loss


class Leaning(nn.Module):
    """The true average velocity, leant by weights that stand at 0."""

    def __init__(self, off=0.0):
        super().__init__()
        self.off, self.lean = off, nn.Parameter(torch.zeros(4))

    def forward(self, x, t, _cond, call):
        r = call.r
        at, later = (s.view(-1, 1, 1, 1) for s in (t, r))
        ways = torch.stack([torch.ones_like(x), x, x * (later - at), x * at])
        value = true_average(x, t, r) + self.off * (later - at)
        return Output(value + torch.einsum("k,kbchw->bchw", self.lean, ways))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("instant", [0.0, 0.5])
def test_the_true_average_is_a_fixed_point(name, instant):
    x1 = MEAN + SPREAD * some(100_000, 1, 2, 2, seed=9)  # not the noise's seed
    objective = FAMILY[name](STRAIGHT, instant=instant)

    def gradient(network):
        objective.loss(network, batch_of(x1), rng(), drawing, MSE)[0].backward()
        return network.lean.grad.abs().max()

    assert gradient(Leaning()) < 0.02
    assert gradient(Leaning(off=0.5)) > 0.1


def test_alpha_flow_becomes_mean_flow():
    x, t, r = way(200)
    v, alpha = some(200, 1, 2, 2, seed=4, dtype=torch.float64), 1e-4
    u = true_average(x, t, r)
    error = u - between(true_average, x, t, r, v, alpha=alpha).at(u) - v
    wanted = u - exact(true_average, x, t, r, v).at(u) - v
    torch.testing.assert_close(error, wanted, rtol=1e-2, atol=1e-2)


ALPHAS = (0.5, 0.3, 0.1, 0.05, 0.02, 0.005)
LOSSES = {
    "mse": {"mse": (1.0, TERMS["mse"])},
    "adaptive": {"adaptive": (1.0, TERMS["adaptive"])},
    "half": {"adaptive": (1.0, partial(TERMS["adaptive"], power=0.5))},
}


def gradient_norm(objective, criterion):
    """Of a fixed small network, all rows with r > t."""
    network, batch = awake(), batch_of(some(64, 1, 4, 4, seed=5), *classes(64))
    objective.loss(network, batch, rng(), drawing, criterion)[0].backward()
    return torch.stack([p.grad.square().sum() for p in network.parameters()]).sum().sqrt().item()


@pytest.mark.parametrize("terms", LOSSES)
def test_gradients_of_alpha_flow_go_over_into_those_of_mean_flow(terms):
    """Official: adaptive weights times alpha; without an adaptive weight, the loss by alpha."""
    criterion = compose(LOSSES[terms])
    norms = [gradient_norm(alpha_flow(STRAIGHT, instant=0.0, alpha=a), criterion) for a in ALPHAS]
    wanted = gradient_norm(mean_flow(STRAIGHT, instant=0.0), criterion)
    assert norms[-1] == pytest.approx(wanted, rel=0.02)
    for before, after in pairwise(norms):
        assert after == pytest.approx(before, rel=0.2)


def test_alpha_flow_agrees_along_the_true_way():
    """Cut anywhere, the two parts of a true way make the whole, were v its average."""
    x, t, r = way(200)
    half = t + 0.5 * (r - t)
    u = true_average(x, t, r)
    lift = between(true_average, x, t, r, true_average(x, t, half), alpha=0.5)
    torch.testing.assert_close(u - lift.at(u), true_average(x, t, half))
    assert not between(true_average, x, t, r, u, alpha=1.0).at(u).any()


BAD_ALPHAS = [
    {"alpha": 0.0},
    {"begin": 0.5},
    {"begin": 0.5, "end": 0.5},
]


@pytest.mark.parametrize("ways", BAD_ALPHAS)
def test_alphas_that_cannot_be_are_refused(ways):
    with pytest.raises(ValueError, match="alpha"):
        alpha_flow(STRAIGHT, **ways)


def test_an_alpha_that_falls_goes_from_trajectories_to_the_derivative():
    """Its loss is that of alpha 1 until it begins, of alpha ½ in the middle, mean flow's after."""
    batch, network = batch_of(some(8, 1, 4, 4, seed=5), *classes(8)), awake()

    def told(objective, done=0.0):
        return objective.loss(network, batch._replace(done=done), rng(), drawing, MSE)[0]

    wanted = {
        0.1: alpha_flow(STRAIGHT, instant=0.0, alpha=1.0),
        0.6: alpha_flow(STRAIGHT, instant=0.0, alpha=0.5),
        0.9: mean_flow(STRAIGHT, instant=0.0),
    }
    objective = alpha_flow(STRAIGHT, instant=0.0, alpha=0.0, begin=0.4, end=0.8)
    for done, other in wanted.items():
        assert torch.equal(told(objective, done), told(other)), done
    assert len({told(other).item() for other in wanted.values()}) == len(wanted)


@pytest.mark.parametrize("done", [0.0, 0.5, 0.51, 1.0])
def test_an_alpha_may_fall_at_once(done):
    batch = batch_of(some(8, 1, 4, 4, seed=5), *classes(8))._replace(done=done)
    objective = alpha_flow(STRAIGHT, alpha=0.1, begin=0.5, end=0.501)
    before, after = (alpha_flow(STRAIGHT, alpha=alpha) for alpha in (1.0, 0.1))
    network = awake()
    told, wanted = (
        each.loss(network, batch, rng(), drawing, MSE)[0]
        for each in (objective, before if done < 0.505 else after)
    )
    assert torch.equal(told, wanted)


@pytest.mark.parametrize("name", [*FAMILY, "alpha_flow"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", ["v", "x1"])
def test_at_one_time_it_is_flow_matching_to_the_bit(name, path, prediction):
    cond, null = classes(16)
    batch, draw = batch_of(some(16, 1, 4, 4), cond, null), partial(drawing, path=PATHS[path])
    ways = {"prediction": prediction, "dropout": 0.3}
    plain, network = flow(PATHS[path], **ways), tiny()
    mean = function_of(OBJECTIVES[name])(PATHS[path], instant=1.0, **ways)

    def times_apart(x, t, cond, call):
        assert torch.equal(t, call.r)
        return network(x, t, cond)

    wanted, _ = plain.loss(network, batch, rng(), draw, MSE)
    found, _ = mean.loss(times_apart, batch, rng(), draw, MSE)
    assert torch.equal(found, wanted)
    x = some(16, 1, 4, 4, seed=5)
    fields = plain.field(network, cond), mean.field(times_apart, cond)
    assert torch.equal(fields[0](x, 0.3), fields[1](x, 0.3))


@pytest.mark.parametrize(("instant", "late"), [(0.75, 2), (0.5, 4), (0.0, 8), (0.99, 1)])
def test_the_first_rows_have_one_time_and_the_rest_two(instant, late):
    seen = []

    def network(x, t, _cond, call):
        if len(x) == 8:
            seen.append((t, call.r))
        return Output(x * 0.5)

    objective = mean_flow(STRAIGHT, instant=instant)
    objective.loss(network, batch_of(some(8, 1, 2, 2)), rng(), drawing, MSE)
    t, r = seen[-1]
    assert torch.equal(t[: 8 - late], r[: 8 - late])
    assert (t[8 - late :] < r[8 - late :]).all()


# --- guidance that is learnt in


class Guided(nn.Module):
    """One velocity for what is asked, another for nothing."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x, _t, cond, call):
        assert call.r is not None
        values = torch.stack([self.value, torch.tensor(0.5)])[(cond.labels == 1).long()]
        return Output(values.view(-1, 1, 1, 1).expand_as(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [("mean_flow", {"mix": 0.5}), ("mean_flow", {"mix": 0.0}), ("improved_mean_flow", {})],
)
def test_learnt_guidance_is_cfg_at_its_scale(name, options):
    """Velocity 2 if asked, 0.5 if not: at scale 3 the network has to say 0.5 + 3·(2 − 0.5)."""
    count, scale = 64, 3.0
    cond, null = Cond(labels=torch.zeros(count, dtype=torch.long)), Cond(labels=torch.tensor([1]))
    objective = function_of(OBJECTIVES[name])(STRAIGHT, guidance=scale, dropout=0.0, **options)

    def draw(x1, cond, generator):
        point = drawing(x1, cond, generator)
        return point._replace(x0=x1 - 2, v=torch.full_like(x1, 2.0))

    def slope(value):
        network = Guided(value)
        batch = batch_of(some(count, 1, 2, 2), cond, null)
        objective.loss(network, batch, rng(), draw, MSE)[0].backward()
        return network.value.grad.item()

    guided = cfg(lambda x, _t: x * 0 + 2, lambda x, _t: x * 0 + 0.5, scale=scale)
    wanted = guided(torch.zeros(1), 0.0).item()
    assert slope(wanted) == pytest.approx(0, abs=1e-5)
    assert slope(wanted - 1) < -0.1
    assert slope(wanted + 1) > 0.1


def test_what_asks_for_nothing_is_not_guided():
    cond, null = Cond(labels=torch.zeros(8, dtype=torch.long)), Cond(labels=torch.tensor([1]))
    batch = batch_of(some(8, 1, 2, 2), cond, null)
    network, values = Guided(2.0), {}
    for guidance in (1.0, 3.0):
        objective = mean_flow(STRAIGHT, guidance=guidance, dropout=1.0)
        values[guidance] = objective.loss(network, batch, rng(), drawing, MSE)[0]
        late = mean_flow(STRAIGHT, guidance=guidance, dropout=0.0, low=0.999, high=1.0)
        values[guidance, "late"] = late.loss(network, batch, rng(), drawing, MSE)[0]
    assert torch.equal(values[1.0], values[3.0])
    assert torch.equal(values[1.0, "late"], values[3.0, "late"])


def test_guidance_without_conditions_is_refused():
    with pytest.raises(ValueError, match="no conditions"):
        mean_flow(STRAIGHT, guidance=2.0).loss(
            oracle, batch_of(some(2, 1, 2, 2)), rng(), drawing, MSE
        )


def test_an_interval_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match=r"low=0.5 high=0.4 is wrong because low is above high"):
        mean_flow(STRAIGHT, low=0.5, high=0.4)


# --- drawing


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_true_average_is_drawn_exactly_in_any_number_of_steps(steps):
    x0 = some(50, 1, 2, 2, dtype=torch.float64)
    field = mean_flow(STRAIGHT).field(oracle, Cond())
    x1 = last(integrate(field, x0, uniform_grid(steps), jump))
    torch.testing.assert_close(x1, MEAN + SPREAD * x0)
    assert (last(integrate(field, x0, uniform_grid(steps), euler)) - x1).abs().max() > 0.1


def test_other_solvers_draw_from_the_velocity():
    x0 = some(50, 1, 2, 2, dtype=torch.float64)
    field = mean_flow(STRAIGHT).field(oracle, Cond())
    x1 = last(integrate(field, x0, uniform_grid(64), midpoint))
    torch.testing.assert_close(x1, MEAN + SPREAD * x0, rtol=1e-3, atol=1e-3)


# --- networks, and how they are run


def test_a_trained_flow_can_begin_a_mean_flow():
    """The weights of the flow and an interval embedding whose last layer is 0: the same answer."""
    trained, network = tiny(), tiny(takes_r=True)
    with torch.no_grad():
        for index, p in enumerate(trained.parameters()):
            p.add_(some(*p.shape, seed=index), alpha=0.1)
    told = network.load_state_dict(trained.state_dict(), strict=False)
    assert told.unexpected_keys == []
    assert {key.split(".")[0] for key in told.missing_keys} == {"interval"}
    nn.init.zeros_(network.interval.down.weight)
    nn.init.zeros_(network.interval.down.bias)
    x, t, r = some(6, 1, 4, 4), torch.linspace(0, 0.9, 6), torch.linspace(0.2, 1, 6)
    cond, null = classes(6)
    value = network(x, t, cond, Call(r)).value
    assert torch.equal(value, trained(x, t, cond).value)
    assert value.abs().mean() > 0.1
    batch = batch_of(x, cond, null)
    mean_flow(STRAIGHT, instant=0.0).loss(network, batch, rng(), drawing, MSE)[0].backward()
    assert network.interval.down.weight.grad.abs().sum() > 0


def gradients(network, forward, objective):
    cond, null = classes(8)
    network.zero_grad()
    batch = batch_of(some(8, 1, 4, 4), cond, null)
    objective.loss(forward, batch, rng(), drawing, MSE)[0].backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", FAMILY)
def test_ddp_has_the_gradient_of_the_network_alone(name):
    objective, network = FAMILY[name](STRAIGHT, guidance=2.0), awake()
    wanted = gradients(network, network, objective)
    with joined("ddp", torch.device("cpu")) as (world, _):
        wrapped = wrap(network, world, precision="fp32", compiled=False)
        with wrapped.gradient_sync(True):
            found = gradients(network, wrapped.forward, objective)
    for key, gradient in wanted.items():
        assert torch.equal(found[key], gradient), key


def test_fsdp2_has_the_gradient_of_the_network_alone():
    objective, network = improved_mean_flow(STRAIGHT), awake()
    wanted = gradients(network, network, objective)
    with joined("fsdp2", torch.device("cpu")) as (world, _):
        wrapped = wrap(network, world, precision="fp32", compiled=False)
        wrapped.gradient_sync(True)
        found = gradients(network, wrapped.forward, objective)
        for key, gradient in wanted.items():
            torch.testing.assert_close(found[key].full_tensor(), gradient)


def test_passes_without_gradients_leave_no_trace_under_autocast():
    """Casts of weights made without gradients must not serve the pass that needs them."""
    network = awake()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(network, network, mean_flow(STRAIGHT, guidance=2.0))
    for key, wanted in gradients(network, network, mean_flow(STRAIGHT, guidance=2.0)).items():
        error = (found[key] - wanted).norm() / wanted.norm().clamp(min=1e-4)
        assert error < 0.2, key


COMPILED = """
import runpy, sys, torch
names = runpy.run_path(sys.argv[1])
network, objective = names["awake"](), names["mean_flow"](names["STRAIGHT"], guidance=2.0)
compiled = torch.compile(network, backend="aot_eager")
wanted, found = (names["gradients"](network, way, objective) for way in (network, compiled))
for key, gradient in wanted.items():
    torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
"""


@pytest.mark.slow
def test_the_graded_pass_may_be_compiled():
    """In a process of its own: what checks shapes in tests can't be compiled."""
    line = [sys.executable, "-W", "ignore", "-c", COMPILED, __file__]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_null_longer_than_the_texts_is_compared():
    """Without dropout nothing has padded the texts; rows that ask for nothing stay unguided."""
    asked = some(2, 3, 4)
    blank = torch.cat([asked[:1], torch.zeros(1, 2, 4)], dim=1)
    assert _differs(asked, blank.expand(2, -1, -1)).tolist() == [False, True]
    assert _differs(blank.expand(2, -1, -1), asked).tolist() == [False, True]
