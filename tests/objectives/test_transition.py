"""Transition matching against Gaussians, where every posterior is known, and by counting."""

import math
from functools import lru_cache, partial

import pytest
import torch

from pathline.backbones.dit import dit
from pathline.backbones.network import Network
from pathline.backbones.transition_head import build_head
from pathline.flow.couplings import independent
from pathline.flow.guidance import cfg, interval
from pathline.flow.paths import PATHS, STRAIGHT, draw_point
from pathline.flow.solvers import integrate, last
from pathline.flow.times import uniform_draw, uniform_grid
from pathline.objectives.terms import TERMS, compose
from pathline.objectives.transition import field, loss, step, transition
from pathline.types import Batch, Cond, Frame, Output

MSE = compose({"mse": (1.0, TERMS["mse"])})
LEARN = {"dropout": 0.0, "draws": 1, "steps": 0, "inner_times": "uniform"}

# Data N(MEAN, COV) of two tokens with two numbers each, as a picture [2 channels, 1, 2].
SHAPE, D = (2, 1, 2), 4
EYE = torch.eye(D, dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
ROOT = torch.tensor([[0.9, 0, 0, 0], [0.5, 0.6, 0, 0], [-0.4, 0.3, 1.1, 0], [0.2, 0.5, -0.3, 0.4]])
COV = ROOT.double() @ ROOT.double().T
TOKEN = torch.arange(D) % 2  # flat [channel, place] -> place
KINDS = {"joint": torch.ones(D, D), "token": (TOKEN[:, None] == TOKEN).double()}
OTHER = {"joint": "token", "token": "joint"}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@lru_cache
def posterior(t, kind):
    """The gain of E[Y | x_t] = MEAN + gain (x − t·MEAN), and the covariance the head is to have."""
    spread = (1 - t) ** 2 * EYE + t**2 * COV
    toward = t * COV - (1 - t) * EYE
    gain = toward @ torch.linalg.inv(spread)
    return gain, (EYE + COV - gain @ toward.T) * KINDS[kind]


def flowing(y, s, m, v):
    """Velocity from N(0, I) to N(m, v) at value y and inner time s."""
    gain = (s * v - (1 - s) * EYE) @ torch.linalg.inv((1 - s) ** 2 * EYE + s**2 * v)
    return m + (y - s * m) @ gain.T


def oracle(kind, mean=MEAN):
    """The best head: (y, t, x, s) -> velocity of y."""

    def velocity(y, t, x, s):
        gain, v = posterior(t, kind)
        m = mean + (x.flatten(1) - t * mean) @ gain.T
        return flowing(y.flatten(1), s, m, v).view_as(y)

    return velocity


def affine(velocity, t, t_next, **ways):
    """One step as x -> a x + m y0 + n renoise + c: its matrices, read off unit vectors."""
    rows = torch.zeros(3 * D + 1, D, dtype=torch.float64)
    x, y0, again = rows.clone(), rows.clone(), rows.clone()
    x[:D], y0[D : 2 * D], again[2 * D : 3 * D] = EYE, EYE, EYE
    queue = [y0.view(-1, *SHAPE), again.view(-1, *SHAPE)]
    out, _ = step(
        velocity, x.view(-1, *SHAPE), t, t_next, None, lambda _: queue.pop(0), STRAIGHT, **ways
    )
    out = out.flatten(1)
    c = out[-1]
    return *((out[i * D : (i + 1) * D] - c).T for i in range(3)), c


def walked(velocity, steps, **ways):
    """Mean and covariance after a walk of so many steps from N(0, I)."""
    mean, cov = torch.zeros(D, dtype=torch.float64), EYE
    for k in range(steps):
        a, m, n, c = affine(velocity, k / steps, (k + 1) / steps, **ways)
        mean, cov = a @ mean + c, a @ cov @ a.T + m @ m.T + n @ n.T
    return mean, cov


def recursion(steps, kind):
    """The same, by the formula of the notes: q is the covariance the head gives Y."""
    mean, cov = torch.zeros(D, dtype=torch.float64), EYE
    for k in range(steps):
        gain, v = posterior(k / steps, "joint" if kind == "mean" else kind)
        q = 0 if kind == "mean" else v
        mean = mean + (MEAN + gain @ (mean - k / steps * MEAN)) / steps
        a = EYE + gain / steps
        cov = a @ cov @ a.T + q / steps**2
    return mean, cov


FINE = {"head_steps": 30}


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_walk_is_the_gaussian_recursion(steps, kind):
    mean, cov = walked(oracle(kind), steps, **FINE)
    wanted = recursion(steps, kind)
    torch.testing.assert_close(mean, wanted[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(cov, wanted[1], atol=8e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 64])
def test_a_joint_head_is_exact_for_any_number_of_steps(steps):
    mean, cov = recursion(steps, "joint")
    torch.testing.assert_close(mean, MEAN)
    torch.testing.assert_close(cov, COV)


def test_a_head_for_each_token_knows_tokens_exactly_and_their_relation_in_the_limit():
    mean, cov = walked(oracle("token"), 1, **FINE)
    torch.testing.assert_close(mean, MEAN)
    torch.testing.assert_close(cov, COV * KINDS["token"], atol=8e-4, rtol=0)
    wrong = [(recursion(steps, "token")[1] - COV).norm() for steps in (32, 64, 128)]
    plain = [(recursion(steps, "mean")[1] - COV).norm() for steps in (32, 64, 128)]
    for errors in (wrong, plain):
        assert 1.7 < errors[0] / errors[1] < 2.3
        assert 1.7 < errors[1] / errors[2] < 2.3
    assert wrong[0] < plain[0] / 2


@pytest.mark.parametrize("steps", [1, 4])
def test_one_euler_step_of_the_head_is_an_euler_step_of_flow_matching(steps):
    """Whatever the noise: Y is its mean."""
    velocity = oracle("token")
    for k in range(steps):
        t = k / steps
        a, m, _, c = affine(velocity, t, t + 1 / steps, head_steps=1, head_solver="euler")
        gain, _ = posterior(t, "joint")
        torch.testing.assert_close(a, EYE + gain / steps, atol=1e-12, rtol=0)
        torch.testing.assert_close(m, 0 * EYE, atol=1e-12, rtol=0)
        torch.testing.assert_close(c, (MEAN - t * gain @ MEAN) / steps, atol=1e-12, rtol=0)


@pytest.mark.parametrize("overshoot", [0.2, 1.0])
def test_an_overshoot_keeps_every_marginal(overshoot):
    mean, cov = walked(oracle("joint"), 4, overshoot=overshoot, **FINE)
    torch.testing.assert_close(mean, MEAN)
    torch.testing.assert_close(cov, COV, atol=1e-3, rtol=0)
    a, m, n, _ = affine(oracle("joint"), 0.25, 0.5, overshoot=overshoot, **FINE)
    here, there = ((1 - t) ** 2 * EYE + t**2 * COV for t in (0.25, 0.5))
    torch.testing.assert_close(a @ here @ a.T + m @ m.T + n @ n.T, there, atol=2e-3, rtol=0)
    assert n.abs().max() > 0.1


@pytest.mark.parametrize(
    ("solver", "evaluations", "shares"),
    [("euler", 1, (0.47, 0.71, 0.85, 0.92)), ("midpoint", 2, (0.94, 0.986, 0.998, 1.0))],
)
def test_how_narrow_solvers_of_the_head_leave_y(solver, evaluations, shares):
    """For Y ~ N(0, ½) after 2, 4, 8, 16 evaluations of the head; Euler is no good."""

    def velocity(y, _t, _x, s):
        return flowing(y.flatten(1), s, 0 * MEAN, EYE / 2).view_as(y)

    for nfe, share in zip((2, 4, 8, 16), shares, strict=True):
        ways = {"head_solver": solver, "head_steps": nfe // evaluations}
        _, m, _, _ = affine(velocity, 0.0, 1.0, **ways)
        assert m[0, 0].item() / 0.5**0.5 == pytest.approx(share, abs=0.006)


def test_guidance_leans_the_velocity_of_the_head():
    """Heads of one covariance: guided at w, Y is drawn about m∅ + w (m − m∅)."""
    one, two = oracle("token"), oracle("token", mean=MEAN * 0.2)
    guided, wanted = cfg(one, two, scale=2.5), oracle("token", mean=MEAN * (0.2 + 2.5 * 0.8))
    ways = {"head_steps": 3}
    for found, right in zip(
        affine(guided, 0.4, 0.8, **ways), affine(wanted, 0.4, 0.8, **ways), strict=True
    ):
        torch.testing.assert_close(found, right)
    assert cfg(one, two, scale=1.0) is one


NULL = Cond(labels=torch.tensor([3]))


def real(**ways):
    """A small DiT with a head, no weight of which is zero."""
    torch.manual_seed(0)
    frame = Frame(2, 4, 4, classes=3)
    backbone = dit(frame, depth=1, width=16, heads=2, patch=2)
    network = Network(backbone, head=build_head(backbone, frame, depth=1, **ways)).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=rng(1)))
    return network


def counting(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def drawn(network, labels, seeds, steps, guide, **ways):
    """As `generate` draws: one generator a picture, one field for a condition."""
    generators = [rng(seed) for seed in seeds]

    def noise(x):
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])

    null = Cond(labels=NULL.labels.expand(len(labels)))
    both = field(network, Cond(labels=labels)), field(network, null)
    x0 = noise(torch.empty(len(labels), 2, 4, 4))
    with torch.no_grad():
        return last(
            integrate(guide(*both), x0, uniform_grid(steps), partial(step, **ways), noise, STRAIGHT)
        )


MEETING = {"kind": "transformer", "group": 2}


@pytest.mark.parametrize("head", [{}, MEETING, {**MEETING, "group": 0}])
def test_the_backbone_runs_once_a_step_and_condition(head):
    network, labels = real(**head), torch.tensor([0, 1])
    for guide, factor in (
        (partial(cfg, scale=1.0), [1, 1, 1, 1]),
        (partial(cfg, scale=3.0), [2, 2, 2, 2]),
        (partial(interval, scale=3.0, low=0.2, high=0.5), [1, 2, 2, 1]),  # by outer time
    ):
        backbone, head = counting(network.backbone), counting(network.head)
        drawn(network, labels, [5, 6], 4, guide, head_steps=3)
        assert len(backbone) == sum(factor)
        assert len(head) == 3 * 2 * sum(factor)


def test_a_picture_depends_on_its_seed_alone():
    network, guide = real(), partial(cfg, scale=2.0)
    labels, seeds = torch.tensor([0, 1, 2]), [5, 6, 7]
    together = drawn(network, labels, seeds, 3, guide, overshoot=0.2)
    for i in range(3):
        alone = drawn(network, labels[i : i + 1], seeds[i : i + 1], 3, guide, overshoot=0.2)
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-4)
    other = drawn(network, labels, [5, 6, 8], 3, guide, overshoot=0.2)
    assert (other[:2] - together[:2]).abs().max() < 1e-5
    assert (other[2] - together[2]).abs().max() > 1e-3


def test_hidden_states_are_forgotten_with_their_state():
    network = real()
    calls, read = counting(network.backbone), field(network, Cond(labels=torch.tensor([0, 1])))
    x, y, t = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4), 0.5
    first = read(y, t, x, 0.3)
    assert torch.equal(read(y, t, x, 0.3), first)
    assert len(calls) == 1
    assert (read(y, t, x + 1, 0.3) - first).abs().max() > 1e-3
    assert (read(y, 0.6, x, 0.3) - first).abs().max() > 1e-3
    assert len(calls) == 3


def test_two_arguments_read_the_mean():
    network, cond = real(), Cond(labels=torch.tensor([0, 1]))
    x = torch.randn(2, 2, 4, 4)
    mean = field(network, cond)(x, 0.4)
    torch.testing.assert_close(mean, field(network, cond)(0 * x, 0.4, x, 0.0))
    torch.testing.assert_close(field(network, cond)(x, torch.tensor([0.4, 0.4])), mean)


def drawing(x1, cond, generator, t=None):
    def times(x, g):
        return uniform_draw(x, g) if t is None else torch.full((len(x),), t)

    return draw_point(x1, cond, generator, path=STRAIGHT, draw=times, couple=independent)


def batch_of(x1, cond=None):
    return Batch(x1, cond or Cond(), Cond(), torch.arange(len(x1)))


class Asked:
    """A network that notes what it is asked."""

    def __call__(self, x, t, _cond, call):
        self.x, self.t, self.y, self.s = x, t, call.y, call.s
        assert (call.r, call.hidden) == (None, None)
        return Output(torch.zeros_like(call.y), torch.zeros(len(x), 4, 8))


def noting(seen):
    def criterion(point, out):
        seen.append((point, out))
        return MSE(point, out)

    return criterion


def test_every_token_has_its_own_inner_time_and_every_picture_its_own_time():
    x1, network, seen = torch.randn(5, 3, 8, 4, generator=rng(1)), Asked(), []
    ways = {**LEARN, "draws": 3, "patch": 2}
    loss(network, batch_of(x1), rng(), drawing, noting(seen), **ways)
    assert network.x.shape == x1.shape
    assert len(network.t.unique()) == 5
    assert network.s.shape == (15, 4, 2)
    assert len(network.s.unique()) == 15 * 4 * 2
    point, out = seen[0]
    assert point.t.equal(network.t.repeat(3))
    assert len(out.hidden) == 5
    assert len({tuple(row) for row in point.x0.flatten(1).tolist()}) == 15
    for y in point.x1.split(5):  # the way to the data, the same for every draw
        way = (1 - network.t.view(-1, 1, 1, 1)) * y
        torch.testing.assert_close(network.x + way, x1)
    for i, j in ((0, 0), (3, 1), (1, 0)):  # the same inner time all over a token
        s = network.s[:, i, j].view(-1, 1, 1, 1)
        token = (slice(None), slice(None), slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        torch.testing.assert_close(
            network.y[token], torch.lerp(point.x0[token], point.x1[token], s)
        )
    torch.testing.assert_close(point.v, point.x1 - point.x0)


def test_the_whole_picture_may_share_an_inner_time():
    x1, network, seen = torch.randn(5, 3, 8, 4, generator=rng(1)), Asked(), []
    loss(network, batch_of(x1), rng(), drawing, noting(seen), **{**LEARN, "draws": 3, "patch": 0})
    assert network.s.shape == (15, 1, 1)
    assert len(network.s.unique()) == 15
    point = seen[0][0]
    torch.testing.assert_close(network.y, torch.lerp(point.x0, point.x1, network.s[:, None]))


@pytest.mark.parametrize(("steps", "times"), [(1, {0.0}), (4, {0.0, 0.25, 0.5, 0.75})])
def test_times_of_so_many_steps(steps, times):
    x1, network, seen = torch.randn(400, 1, 2, 2, generator=rng(1)), Asked(), []
    loss(network, batch_of(x1), rng(), drawing, noting(seen), **{**LEARN, "steps": steps})
    assert set(network.t.tolist()) == times
    counts = [(network.t == t).sum().item() for t in times]
    assert min(counts) > 0.7 * 400 / steps
    way = (1 - network.t.view(-1, 1, 1, 1)) * seen[0][0].x1
    torch.testing.assert_close(network.x + way, x1)


def test_logit_normal_inner_times_avoid_the_ends():
    x1, network = torch.randn(500, 1, 2, 2, generator=rng(1)), Asked()
    shares = []
    for times in ("uniform", "logit_normal"):
        loss(network, batch_of(x1), rng(), drawing, MSE, **{**LEARN, "inner_times": times})
        shares.append(((network.s < 0.1) | (network.s > 0.9)).float().mean().item())
    assert shares[0] == pytest.approx(0.2, abs=0.03)
    assert shares[1] == pytest.approx(0.028, abs=0.015)


def test_terms_hear_the_class_of_every_draw():
    x1, seen = torch.randn(3, 1, 2, 2, generator=rng(1)), []
    cond = Cond(labels=torch.tensor([2, 0, 1]))
    batch = Batch(x1, cond, Cond(labels=torch.tensor([3])), torch.arange(3))

    def labelled(x1, cond, generator):
        return drawing(x1, cond, generator)._replace(labels=cond.labels)

    loss(Asked(), batch, rng(), labelled, noting(seen), **{**LEARN, "draws": 2})
    assert seen[0][0].labels.tolist() == [2, 0, 1, 2, 0, 1]


def test_a_shift_pushes_inner_times_to_noise():
    x1, network = torch.randn(4000, 1, 2, 2, generator=rng(1)), Asked()
    loss(network, batch_of(x1), rng(), drawing, MSE, **LEARN, inner_shift=3.0)
    mean = 0.75 * math.log(3) - 0.5  # the integral of s / (s + 3·(1 − s))
    assert network.s.mean().item() == pytest.approx(mean, abs=0.01)


def test_loss_of_the_best_head_is_the_closed_form():
    """For data N(0, v) it leaves E Var(Y − Y0 | y_s, x_t), and any other head more."""
    data, t = 0.3, 0.4
    spread, toward = (1 - t) ** 2 + t**2 * data, t * data - (1 - t)
    v = 1 + data - toward**2 / spread

    def ratio(s):
        return (s * v - (1 - s)) / ((1 - s) ** 2 + s**2 * v)

    def network(x, _t, _cond, call, wrong=0.0):
        y, s = call.y, call.s
        m = toward / spread * x.repeat(2, 1, 1, 1)
        return Output(m + ratio(s[:, None]) * (y - s[:, None] * m) + wrong)

    s = (torch.arange(10_000) + 0.5) / 10_000
    floor = (1 + v - ratio(s) * (s * v - (1 - s))).mean().item()
    x1 = torch.randn(100_000, 1, 1, 1, generator=rng(3)) * data**0.5
    ways = {**LEARN, "draws": 2}
    at_t = partial(drawing, t=t)
    best, _ = loss(network, batch_of(x1), rng(), at_t, MSE, **ways)
    worse, _ = loss(partial(network, wrong=0.3), batch_of(x1), rng(), at_t, MSE, **ways)
    assert best.item() == pytest.approx(floor, rel=0.01)
    assert worse.item() == pytest.approx(floor + 0.09, rel=0.02)


@pytest.mark.parametrize("head", [{}, MEETING, {**MEETING, "group": 0}])
def test_one_run_of_the_backbone_learns_from_all_draws(head):
    network = real(**head).train()
    backbone, head = counting(network.backbone), counting(network.head)
    labels = torch.tensor([0, 1, 2])
    batch = Batch(torch.randn(3, 2, 4, 4), Cond(labels=labels), NULL, labels)
    ways = {**LEARN, "draws": 6, "patch": network.head.size}
    value, _ = loss(network, batch, rng(), drawing, MSE, **ways)
    value.backward()
    assert (len(backbone), len(head)) == (1, 1)
    assert [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


def learnt(updates, **head):
    """A network that learnt to draw from N(MEAN, COV), two tokens that depend on each other."""
    torch.manual_seed(0)
    backbone = dit(Frame(2, 1, 2), depth=1, width=32, heads=2, patch=1)
    head = build_head(backbone, backbone.frame, width=32, depth=2, **head)
    network = Network(backbone, head=head)
    optimizer = torch.optim.Adam(network.parameters())
    generator, ways = rng(), {**LEARN, "draws": 4, "patch": network.head.size}
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - update / updates)
        x1 = MEAN + torch.randn(256, D, generator=generator, dtype=torch.float64) @ ROOT.double().T
        batch = batch_of(x1.float().view(-1, *SHAPE))
        optimizer.zero_grad()
        loss(network, batch, generator, drawing, MSE, **ways)[0].backward()
        optimizer.step()
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head"), [("joint", {"kind": "transformer", "group": 0}), ("token", {})]
)
def test_a_learnt_head_walks_the_gaussian_recursion(kind, head):
    """In distribution: tokens that met are drawn with their relation, single ones without."""
    generator, read = rng(1), field(learnt(500, **head), Cond())

    def noise(x):
        return torch.randn(x.shape, generator=generator)

    for steps in (1, 2):
        with torch.no_grad():
            x0 = noise(torch.empty(4000, *SHAPE))
            x = last(integrate(read, x0, uniform_grid(steps), step, noise, STRAIGHT))
        x = x.flatten(1).double()
        torch.testing.assert_close(x.mean(0), recursion(steps, kind)[0], atol=0.12, rtol=0)
        wanted, wrong = (recursion(steps, one)[1] for one in (kind, OTHER[kind]))
        off, other = ((x.T.cov() - c).norm() / COV.norm() for c in (wanted, wrong))
        assert off < 0.15
        assert other > 1.5 * off


def test_dropped_conditions_become_the_null():
    network, seen = Asked(), []

    def asked(x, t, cond, *more):
        seen.append(cond)
        return network(x, t, cond, *more)

    batch = Batch(torch.randn(200, 1, 2, 2), Cond(labels=torch.zeros(200).long()), NULL, NULL[3])
    loss(asked, batch, rng(), drawing, MSE, **{**LEARN, "dropout": 0.3})
    assert 0.2 < (seen[0].labels == 3).float().mean() < 0.4


def test_a_path_that_is_not_straight_is_refused():
    with pytest.raises(ValueError, match="needs the straight path"):
        transition(PATHS["trig"])


def test_a_walk_without_noise_is_refused():
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    with pytest.raises(ValueError, match="Pass `integrate` a noise"):
        step(oracle("joint"), x, 0.0, 1.0, None, None, STRAIGHT)
