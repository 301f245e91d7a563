"""Where an x1-prediction ends: at the data it predicts, whatever the solver and its steps."""

import pytest
import torch

from pathline.assemble import sampler
from pathline.config.pick import Pick
from pathline.config.run import Sample
from pathline.flow.paths import PATHS, STRAIGHT
from pathline.flow.solvers import Solver, last
from pathline.objectives.flow import flow
from pathline.objectives.mean_flow import mean_flow
from pathline.tables import TABLES
from pathline.types import Cond, Output

ROWS = TABLES["sample.solver"]
NAMES = [name for name, row in ROWS.items() if getattr(row, "asks", "velocity") != "transition"]
X1 = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
X0 = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2))


def noise(x):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x)


def walk_of(name, steps, path=STRAIGHT):
    return sampler(Sample(solver=Pick(name), steps=steps), path).walk


@pytest.mark.parametrize("steps", [1, 2, 5, 30, 200])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_knows_the_data_gives_it(name, steps):
    """Also below the floor of the loss, which is 0.05 of 1 − t here."""
    objective = (mean_flow if name == "jump" else flow)(STRAIGHT, prediction="x1")
    field = objective.field(lambda *_: Output(X1), Cond())
    x = last(walk_of(name, steps)(field, X0, noise, predicts_x1=True))
    torch.testing.assert_close(x, X1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", NAMES)
def test_only_marked_solvers_evaluate_the_end_and_none_does_for_an_x1_prediction(name, path):
    row, times = ROWS[name], []
    marked = isinstance(row, Solver) and row.evaluates_end

    def field(x, t, *_):
        times.append(t)
        return -x

    for predicts_x1 in (False, True):
        times.clear()
        states = list(walk_of(name, 3, PATHS[path])(field, X0, noise, predicts_x1=predicts_x1))
        assert states[-1][0] == 1.0
        assert (max(times) == 1) == (marked and not predicts_x1)


@pytest.mark.parametrize("name", NAMES)
def test_a_velocity_prediction_ends_as_it_did(name):
    x = last(walk_of(name, 4)(lambda x, t, *_: -x * t, X0, noise))
    same = last(walk_of(name, 4)(lambda x, t, *_: -x * t, X0, noise, predicts_x1=False))
    assert torch.equal(x, same)


@pytest.mark.parametrize("name", ["heun", "rk4", "dopri5"])
def test_a_picture_begun_just_before_the_end_gets_there(name):
    field = flow(STRAIGHT, prediction="x1").field(lambda *_: Output(X1), Cond())
    states = list(walk_of(name, 4)(field, X0, noise, 0.9999, predicts_x1=True))
    assert [t for t, _ in states] == [0.9999, 1.0]
    torch.testing.assert_close(states[-1][1], X1, rtol=0, atol=1e-6)


def test_the_velocity_of_an_x1_prediction_at_the_end_is_refused():
    field = flow(STRAIGHT, prediction="x1").field(lambda *_: Output(X1), Cond())
    with pytest.raises(ValueError, match="no velocity at t = 1"):
        field(X0, 1.0)
