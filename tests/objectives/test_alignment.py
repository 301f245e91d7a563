"""Alignment with a frozen encoder: what it is 0 for, what it reads, when the projector is asked."""

import pytest
import torch

from pathline.objectives.alignment import alignment, fitted, standardised, with_features
from pathline.objectives.terms import TERMS, compose, mse
from pathline.types import PLAIN_CALL, Batch, Cond, Output, Point


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def point(features=None):
    x = some(2, 1, 4, 4)
    return Point(x, x, torch.full((2,), 0.5), x, x, features=features)


def told(features, projected, **settings):
    out = Output(some(2, 1, 4, 4), projected=projected)
    found = alignment(point(features), out, **settings)
    assert found is not None
    return found


def test_what_shows_the_features_themselves_is_aligned_whatever_its_length():
    features = some(2, 8, 3, 3)
    length = torch.rand(2, 1, 3, 3) + 0.1
    torch.testing.assert_close(told(features, length * features, standardise=0.0), torch.zeros(2))
    torch.testing.assert_close(told(features, -features, standardise=0.0), torch.full((2,), 2.0))


def test_other_places_and_pictures_are_not_aligned():
    features = some(2, 8, 3, 3)
    for other in (features.roll(1, -1), features.flip(0), features.transpose(2, 3)):
        assert (told(features, other, standardise=0.0) > 0.3).all()


def test_features_lose_their_share_of_the_mean_and_have_one_spread():
    features = 3 + 2 * some(2, 8, 4, 4).double()
    whole, part = standardised(features, 1.0), standardised(features, 0.6)
    torch.testing.assert_close(whole.mean((2, 3)), torch.zeros(2, 8).double())
    spread = whole.std((2, 3), correction=0)
    torch.testing.assert_close(spread, torch.ones(2, 8).double(), rtol=1e-5, atol=0)
    mean, std = features.mean((2, 3)), features.std((2, 3), correction=0)
    left = 0.4 * mean / (std + 1e-6)
    torch.testing.assert_close(part.mean((2, 3)), left)
    torch.testing.assert_close(part, whole + left[..., None, None])
    aim = standardised(features, 0.6)
    assert (told(features, aim, standardise=0.6).abs() < 1e-5).all()
    assert (told(features, features, standardise=0.6) > 0.01).all()


def test_an_encoder_of_one_token_stays_finite():
    assert told(some(2, 8, 1, 1), some(2, 8, 3, 3), standardise=1.0).isfinite().all()


@pytest.mark.parametrize("grid", [(8, 8), (2, 2), (4, 4), (3, 5)])
def test_features_on_another_grid_keep_constants_and_means(grid):
    constant = some(2, 8, 1, 1).expand(-1, -1, 4, 4)
    torch.testing.assert_close(fitted(constant, grid), some(2, 8, 1, 1).expand(-1, -1, *grid))
    if grid == (2, 2):  # a token of the coarser grid hears all that lies in it, and its neighbours
        one = torch.zeros(1, 1, 4, 4)
        one[..., 1, 0] = 1
        found = fitted(one, grid)
        assert found[0, 0, 0, 0] > found[0, 0, 1, 0] >= 0
        assert found[0, 0, 0, 1] == 0
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    assert fitted(ramp, grid).mean() == pytest.approx(7.5, abs=0.3)


def test_there_is_no_term_where_there_are_no_features():
    criterion = compose({"mse": (1.0, mse), "alignment": (0.5, alignment)})
    out = Output(some(2, 1, 4, 4, seed=1), projected=some(2, 8, 3, 3))
    total, values = criterion(point(), out)
    assert list(values) == ["mse"]
    assert total == values["mse"]
    total, values = criterion(point(some(2, 8, 3, 3, seed=2)), out)
    torch.testing.assert_close(total, values["mse"] + 0.5 * values["alignment"])
    with pytest.raises(ValueError, match="no projector"):
        criterion(point(some(2, 8, 3, 3)), Output(out.value))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="no velocity is trained"):
        compose({"alignment": (1.0, TERMS["alignment"])})


def test_the_projector_is_asked_where_the_batch_has_features_and_the_pass_learns():
    asked, seen = [], []

    def network(_x, _t, _cond, call=PLAIN_CALL):
        asked.append(call.project)
        return Output(torch.zeros(1))

    def loss(network, batch, _rng, _draw, criterion):
        with torch.no_grad():
            network(batch.x1, torch.zeros(2), batch.cond)  # for a target
        return criterion(point(), network(batch.x1, torch.zeros(2), batch.cond))

    def draw(*_):
        return point()

    def criterion(point, _):
        seen.append(point.features)
        return torch.zeros(()), {}

    batch = Batch(some(2, 1, 4, 4), Cond(), Cond(), torch.arange(2))
    learn, rng = with_features(loss), torch.Generator()
    learn(network, batch, rng, draw, criterion)
    assert (asked, seen) == ([False, False], [None])
    features = some(2, 8, 3, 3)
    learn(network, batch._replace(features=features), rng, draw, criterion)
    assert asked[2:] == [False, True]
    assert seen[1] is features
    with torch.no_grad():  # a validation or a rehearsal
        learn(network, batch._replace(features=features), rng, draw, criterion)
    assert asked[4:] == [True, True]
