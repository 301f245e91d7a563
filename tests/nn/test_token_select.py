"""Routes: who is chosen, and that what is taken out is put back where it was."""

import pytest
import torch

from pathline.nn import token_select as routing
from pathline.nn.positions import rotary, rotate
from pathline.types import Route


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def counts(kept, total):
    """How often each place was kept, over all rows."""
    return torch.bincount(kept.flatten(), minlength=total)


@pytest.mark.parametrize(
    ("share", "keeps"), [(0.0, 24), (0.25, 18), (0.5, 12), (0.75, 6), (0.99, 1)]
)
def test_tokens_anywhere_are_distinct_rising_and_as_many_as_asked(rng, share, keeps):
    kept = routing.sample_tokens(50, 24, share, rng)
    assert kept.shape == (50, keeps)
    assert (kept.diff(dim=1) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < 24


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_every_group_keeps_as_many(rng, keep):
    kept = routing.sample_in_groups(50, (4, 6), keep, rng)
    assert kept.shape == (50, 6 * keep)
    assert (kept.diff(dim=1) > 0).all()
    row, column = kept // 6, kept % 6
    group = (row // 2) * 3 + column // 2
    for number in range(6):
        assert ((group == number).sum(1) == keep).all()


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (4, 5), (5, 2)])
def test_groups_at_an_odd_edge_keep_what_they_can(rng, grid, keep):
    rows, columns = grid
    kept = routing.sample_in_groups(50, grid, keep, rng)
    assert (kept.diff(dim=1) > 0).all()
    assert kept.max() < rows * columns
    group = torch.stack([kept // columns // 2, kept % columns // 2], dim=2)
    for i in range(0, rows, 2):
        for j in range(0, columns, 2):
            has = min(2, rows - i) * min(2, columns - j)
            count = (group == torch.tensor([i // 2, j // 2])).all(2).sum(1)
            assert (count == min(keep, has)).all()


@pytest.mark.parametrize("way", ["anywhere", "in_groups"])
def test_every_place_is_as_likely(rng, way):
    n, keep = 4000, 0.25
    if way == "anywhere":
        kept = routing.sample_tokens(n, 24, 1 - keep, rng)
    else:
        kept = routing.sample_in_groups(n, (4, 6), 1, rng)
    deviation = (n * keep * (1 - keep)) ** 0.5
    assert (counts(kept, 24) - n * keep).abs().max() < 4.5 * deviation


@pytest.mark.parametrize("way", ["anywhere", "in_groups"])
def test_rows_are_drawn_apart(rng, way):
    """Two rows share a place as often as two independent ones would."""
    if way == "anywhere":
        kept = routing.sample_tokens(4000, 24, 0.75, rng)
    else:
        kept = routing.sample_in_groups(4000, (4, 6), 1, rng)
    seen = torch.zeros(4000, 24).scatter(1, kept, 1.0)
    together = (seen[::2] * seen[1::2]).mean()
    assert together == pytest.approx(0.25**2, rel=0.05)


def test_groups_spread_where_chance_anywhere_leaves_holes(rng):
    """The control: free choice does leave whole groups out."""
    kept = routing.sample_tokens(200, 24, 0.75, rng)
    group = (kept // 6 // 2) * 3 + kept % 6 // 2
    assert not all((group == number).any(1).all() for number in range(6))


def test_the_same_generator_gives_the_same_route():
    draws = [routing.sample_tokens(3, 24, 0.5, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)
    assert not torch.equal(
        draws[0], routing.sample_tokens(3, 24, 0.5, torch.Generator().manual_seed(8))
    )


def test_put_undoes_take(rng):
    x = torch.randn(3, 24, 5, generator=rng)
    kept = routing.sample_tokens(3, 24, 0.5, rng)
    taken = routing.take(x, kept)
    for row in range(3):
        assert torch.equal(taken[row], x[row, kept[row]])
    assert torch.equal(routing.put(x, kept, taken), x)
    changed = routing.put(x, kept, taken + 1)
    missed = torch.ones(3, 24, dtype=torch.bool).scatter(1, kept, False)
    assert torch.equal(changed[missed], x[missed])
    assert torch.equal(changed[~missed], x[~missed] + 1)


def test_gradients_go_through_and_past(rng):
    x = torch.randn(2, 8, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    kept = routing.sample_tokens(2, 8, 0.5, rng)
    assert torch.autograd.gradcheck(lambda x: routing.put(x, kept, routing.take(x, kept) ** 2), x)


def test_text_is_never_missed(rng):
    kept = routing.sample_tokens(3, 8, 0.5, rng)
    both = routing.with_text(kept, 8, 11)
    assert torch.equal(both[:, :4], kept)
    assert torch.equal(both[:, 4:], torch.tensor([8, 9, 10]).expand(3, -1))


def test_turns_follow_tokens(rng):
    x = torch.randn(3, 12, 2, 8, generator=rng)
    table = rotary(3, 4, 8)
    kept = routing.sample_tokens(3, 12, 0.5, rng)
    turned = rotate(x, table).flatten(2)
    alone = rotate(routing.take(x.flatten(2), kept).view(3, 6, 2, 8), routing.rope_of(table, kept))
    assert torch.equal(alone.flatten(2), routing.take(turned, kept))


def test_masks_follow_tokens(rng):
    mask = torch.rand(3, 1, 1, 9, generator=rng) < 0.5
    kept = routing.sample_tokens(3, 9, 0.4, rng)
    found = routing.mask_of(mask, kept)
    for row in range(3):
        assert torch.equal(found[row, 0, 0], mask[row, 0, 0, kept[row]])


def test_the_last_rows_of_a_route(rng):
    route = Route(routing.sample_tokens(4, 8, 0.5, rng), torch.tensor([True, False, True, False]))
    last = route.last(3)
    assert torch.equal(last.indices, route.indices[1:])
    assert last.skipped.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="sampled for 4 images and the network is called with 5"):
        route.last(5)
