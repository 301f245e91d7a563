"""One update: accumulation, clipping, what is not finite, and state that comes back."""

import pytest
import torch
from torch import nn

from pathline.training.device import pick_precision
from pathline.training.ema import exponential
from pathline.training.loop import Progress, train_players
from pathline.training.optim import adamw
from pathline.training.players import Player, lane_rng, restore, state_of, tensors_of, update
from pathline.types import Batch, Cond

CPU = torch.device("cpu")


def loss(network, batch, rng):
    noise = torch.randn(batch.x1.shape, generator=rng)
    value = (network(batch.x1) - noise).square().mean()
    return value, {"mse": value.detach()}


def player(seed=0, **changes):
    torch.manual_seed(seed)
    network = nn.Linear(4, 4)
    settings = {
        "name": "network",
        "network": network,
        "forward": network,
        "optimizer": adamw(network, lr=0.01),
        "loss": loss,
        "rate": lambda n: 1 / (n + 1),
        "precision": pick_precision("fp32", CPU),
        "emas": [exponential(network, 0.9)],
    }
    return Player(**(settings | changes))


def lane(number=0, rows=6):
    x1 = torch.randn(rows, 4, generator=torch.Generator().manual_seed(number))
    return Batch(x1, Cond(), Cond(), torch.arange(rows)), lane_rng(0, 0, number, CPU)


def weights(of):
    return torch.cat([p.detach().flatten() for p in of.network.parameters()])


def test_two_lanes_are_the_mean_of_their_losses():
    one, two = player(), player()
    report = update(one, [lane(0), lane(1)], 0)
    both = [loss(two.network, *lane(number))[0] for number in (0, 1)]
    (sum(both) / 2).backward()
    two.optimizer.step()
    assert report.loss == pytest.approx((sum(both) / 2).item())
    assert torch.equal(weights(one), weights(two))


def test_the_rate_follows_the_schedule():
    mine = player()
    update(mine, [lane()], 3)
    assert mine.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 4)


def test_the_norm_is_reported_before_clipping():
    loose, tight = player(), player(clip=1e-3)
    norms = [update(p, [lane()], 0).norm for p in (loose, tight)]
    assert norms[0] == norms[1] > 1e-3
    clipped = torch.cat([p.grad.flatten() for p in tight.network.parameters()]).norm()
    assert clipped == pytest.approx(1e-3, rel=1e-3)


def test_lanes_draw_apart_and_again_the_same():
    draws = [torch.rand(2, generator=lane_rng(*key, CPU)) for key in [(0, 1, 2), (0, 1, 3)] * 2]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("harm", ["loss", "gradient"])
def test_what_is_not_finite_is_caught_before_the_step(harm):
    def bad(network, batch, rng):
        value, terms = loss(network, batch, rng)
        if harm == "loss":
            return value * float("nan"), {"mse": value.detach() * float("nan")}
        return value + torch.sqrt((network.weight * 0).abs()).sum(), terms  # infinite slope at 0

    mine = player(loss=bad)
    before, average = weights(mine), mine.emas[0].weights["weight"].clone()
    report = update(mine, [lane()], 0)
    assert not report.taken
    assert f"the {harm} is not finite" in report.fault
    assert ("mse" if harm == "loss" else "weight") in report.fault
    assert torch.equal(weights(mine), before)
    assert torch.equal(mine.emas[0].weights["weight"], average)
    assert not mine.optimizer.state


def run_with_faults(bad_updates, updates=10):
    told = []

    def sometimes(network, batch, rng):
        value, terms = loss(network, batch, rng)
        return (value * float("nan") if here[0] in bad_updates else value), terms

    here = [0]

    def feed(progress):
        here[0] = progress.update
        return [lane(progress.update)]

    outcome = train_players(
        [player(loss=sometimes)],
        feed,
        Progress(),
        updates=updates,
        batch=6,
        complain=lambda progress, fault, lanes: told.append((progress.update, fault, lanes)),
    )
    return outcome, told


def test_three_faults_in_a_row_end_the_run():
    outcome, told = run_with_faults({4, 5, 6})
    assert (outcome.reason, outcome.progress.update) == ("diverged", 7)
    assert [number for number, *_ in told] == [4, 5, 6]


def test_two_faults_in_a_row_do_not():
    outcome, told = run_with_faults({1, 2, 4, 5, 7, 8})
    assert (outcome.reason, outcome.progress) == ("done", Progress(10, 60))
    assert len(told) == 6


def test_the_loop_stops_between_updates():
    asked = iter([False, False, True])
    outcome = train_players(
        [player()],
        lambda p: [lane(p.update)],
        Progress(),
        updates=10,
        batch=6,
        stopped=lambda: next(asked),
        complain=pytest.fail,
    )
    assert (outcome.reason, outcome.progress.update) == ("interrupted", 2)


def test_a_restored_player_goes_on_bit_for_bit():
    straight, first, second = player(), player(), player(seed=1)
    for n in range(6):
        update(straight, [lane(n)], n)
    for n in range(3):
        update(first, [lane(n)], n)
    restore(second, tensors_of(first), state_of(first))
    for n in range(3, 6):
        update(second, [lane(n)], n)
    groups = [tensors_of(one) for one in (straight, second)]
    for mine, theirs in zip(*(group.values() for group in groups), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_foreign_checkpoint_is_refused_by_name():
    tensors = tensors_of(player())
    tensors["network"]["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"the weights of network.*extra"):
        restore(player(), tensors, {})
    mine = player()
    mine.emas = [exponential(mine.network, 0.5)]
    with pytest.raises(ValueError, match=r"the average ema-0.5 of network"):
        restore(mine, tensors_of(player()), {})


def test_an_overflow_of_the_loss_scale_is_no_fault():
    mine = player(precision=pick_precision("fp16", CPU))
    mine.precision.scaler._init_scale = 2.0**127
    report = update(mine, [lane()], 0)
    assert (report.taken, report.fault) == (False, "")


def test_fp16_skips_a_loss_that_is_not_finite_though_its_gradients_are():
    def loss_of(offset):
        def added(network, batch, rng):
            value, terms = loss(network, batch, rng)
            return value + offset, terms  # a constant has no gradient

        return added

    mine = player(precision=pick_precision("fp16", CPU), loss=loss_of(0.0))
    mine.precision.scaler._init_scale = 4.0
    mine.emas = [exponential(mine.network, 0.5)]
    assert update(mine, [lane()], 0).taken
    before = {
        (group, name): value.clone()
        for group, tensors in tensors_of(mine).items()
        for name, value in tensors.items()
    }
    state = state_of(mine)
    mine.loss = loss_of(float("inf"))
    report = update(mine, [lane()], 1)
    assert (report.taken, report.fault) == (False, "the loss is not finite (terms: none alone)")
    for group, tensors in tensors_of(mine).items():
        assert all(torch.equal(value, before[group, name]) for name, value in tensors.items())
    # The loss scale is not to blame, and the next update is taken again.
    assert state_of(mine) == state
    mine.loss = loss_of(0.0)
    assert update(mine, [lane()], 2).taken
    assert state_of(mine)["scaler"]["_growth_tracker"] == 2


def test_precision_is_measured_or_as_asked():
    assert pick_precision("bf16", CPU).reason == "as set"
    assert "GFLOP/s" in pick_precision("auto", CPU).reason
    with pytest.raises(ValueError, match=r"train.precision=fp8 is no number format"):
        pick_precision("fp8", CPU)
