"""The flow-matching objective against a network that knows the answer, and closed forms."""

from functools import partial

import pytest
import torch

from pathline.flow.couplings import independent
from pathline.flow.paths import PATHS, draw_point
from pathline.flow.times import uniform_draw
from pathline.objectives.flow import drop, flow
from pathline.objectives.terms import TERMS, compose
from pathline.types import Batch, Cond, Output

STRAIGHT = PATHS["straight"]
MSE = compose({"mse": (1.0, TERMS["mse"])})


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(x1, cond=None, null=None):
    return Batch(x1, cond or Cond(), null or Cond(), torch.arange(len(x1)))


def drawing(x1, cond, generator):
    ways = {"path": STRAIGHT, "draw": uniform_draw, "couple": independent}
    return draw_point(x1, cond, generator, **ways)


def knows(x1):
    """A network whose picture is always the right one."""
    return lambda _xt, _t, _cond: Output(x1)


@pytest.mark.parametrize("path", PATHS)
def test_the_right_picture_has_no_loss(path):
    x1 = torch.randn(8, 1, 4, 4, generator=rng(1))
    objective = flow(PATHS[path], prediction="x1")
    draw = partial(draw_point, path=PATHS[path], draw=uniform_draw, couple=independent)
    value, terms = objective.loss(knows(x1), batch_of(x1), rng(), draw, MSE)
    assert value == 0
    assert terms["mse"] == 0


def test_a_wrong_picture_is_weighed_by_the_time():
    """With velocity loss an error of the picture counts 1 / (1 − t)², floored (JiT)."""
    x1 = torch.randn(4096, 1, 1, 1, generator=rng(1))
    objective = flow(STRAIGHT, prediction="x1", floor=0.1)
    value, _ = objective.loss(knows(x1 + 1), batch_of(x1), rng(), drawing, MSE)
    t = drawing(x1, None, rng()).t
    assert value.item() == pytest.approx((1 / (1 - t).clamp(min=0.1) ** 2).mean().item(), rel=1e-4)


def test_loss_of_the_best_velocity_is_the_closed_form():
    """For N(0, s²) data the optimum leaves E Var(v | x_t) and nothing less."""
    s2, t = 0.3, 0.4
    spread = (1 - t) ** 2 + t**2 * s2
    gain = (t * s2 - (1 - t)) / spread
    floor = 1 + s2 - gain * (t * s2 - (1 - t))
    x1 = torch.randn(200_000, 1, 1, 1, generator=rng(3)) * s2**0.5

    def at_t(x1, cond, generator):
        return draw_point(
            x1,
            cond,
            generator,
            path=STRAIGHT,
            draw=lambda x, _: torch.full((len(x),), t),
            couple=independent,
        )

    value, _ = flow(STRAIGHT).loss(
        lambda x, _t, _c: Output(gain * x), batch_of(x1), rng(), at_t, MSE
    )
    assert value.item() == pytest.approx(floor, rel=0.01)
    worse, _ = flow(STRAIGHT).loss(
        lambda x, _t, _c: Output(gain * x + 0.3), batch_of(x1), rng(), at_t, MSE
    )
    assert worse > value + 0.05


@pytest.mark.parametrize("prediction", ["v", "x1"])
def test_field_reads_both_predictions_as_the_same_velocity(prediction):
    x1, x = torch.randn(3, 2, 4, 4, generator=rng(1)), torch.randn(3, 2, 4, 4, generator=rng(2))
    t = 0.3
    v = (x1 - x) / (1 - t)

    def network(_x, _t, _cond):
        return Output(v if prediction == "v" else x1)

    field = flow(STRAIGHT, prediction=prediction).field(network, Cond())
    torch.testing.assert_close(field(x, t), v)
    torch.testing.assert_close(field(x, torch.full((3,), t)), v)


def test_dropped_rows_become_the_null_and_only_those():
    cond = Cond(labels=torch.arange(1000) % 10, words=torch.ones(1000, 4, dtype=torch.long))
    null = Cond(labels=torch.tensor([10]), words=torch.tensor([[7]]))
    dropped = drop(cond, null, 0.25, rng())
    gone = dropped.labels == 10
    assert 0.2 < gone.float().mean() < 0.3
    assert (dropped.labels[~gone] == cond.labels[~gone]).all()
    assert (dropped.words[gone] == torch.tensor([7, 0, 0, 0])).all()
    assert (dropped.words[~gone] == 1).all()
    assert drop(cond, null, 0.0, rng()) is cond


def test_the_null_may_be_longer_than_the_batch():
    cond = Cond(words=torch.ones(4, 2, dtype=torch.long), mask=torch.ones(4, 2, dtype=torch.bool))
    null = Cond(words=torch.tensor([[5, 6, 7]]), mask=torch.ones(1, 3, dtype=torch.bool))
    dropped = drop(cond, null, 1.0, rng())
    assert dropped.words.tolist() == [[5, 6, 7]] * 4
    kept = drop(cond, null, 1e-9, rng())
    assert kept.words.tolist() == [[1, 1, 0]] * 4
    assert kept.mask.tolist() == [[True, True, False]] * 4
