"""What a drawing may be told beside its prompts: conditions, another null, size, a beginning."""

from contextlib import nullcontext

import pytest
import torch

from pathline.assemble import assemble, sampler
from pathline.config.pick import pick
from pathline.config.run import Run, Sample
from pathline.generate import (
    UNCONDITIONED,
    Conditioning,
    encode_images,
    sample_images,
    sample_steps,
)
from pathline.runs.prompts import untrained_size
from pathline.types import Facts, rows_of

FACTS = Facts(1, 8, 8, names=tuple("abc"))
DIT = pick("dit", width=32, depth=2, heads=2, patch=2)
DDT = pick("ddt", width=32, depth=2, heads=2, patch=2)
CROSS = pick("cross_dit", width=32, depth=2, heads=2, patch=2)
STREAM = pick("stream_dit", size="nano/2", width=32, depth=2, heads=2)


def made(backbone=DIT, facts=FACTS):
    parts = assemble(Run(text=pick("labels"), backbone=backbone), facts)
    rng = torch.Generator().manual_seed(1)
    for p in parts.network.parameters():  # the fresh network's output is exactly 0
        p.data.add_(0.1 * torch.randn(p.shape, generator=rng))
    return parts


@pytest.fixture(scope="module")
def parts():
    return made()


def draws(parts, steps=4, scale=3.0, solver="euler"):
    guidance = pick("cfg", scale=scale)
    loose = {"rtol": 0.1, "atol": 0.1} if solver == "dopri5" else {}
    chosen = pick(solver, **loose)
    return sampler(Sample(steps=steps, guidance=guidance, solver=chosen), parts.path)


def x1_of(parts, ask=UNCONDITIONED, items=(0, 1), **more):
    x1 = list(
        sample_steps(parts, items, list(range(len(items))), draws(parts, **more), conditioning=ask)
    )[-1].x
    return x1


def test_conditions_given_are_those_of_the_items(parts):
    ask = Conditioning(cond=parts.text.encode([0, 1]), null=parts.text.null)
    assert torch.equal(x1_of(parts, ask), x1_of(parts))
    other = Conditioning(cond=parts.text.encode([2, 1]))
    assert not torch.allclose(x1_of(parts, other)[0], x1_of(parts)[0], atol=1e-3)
    assert torch.equal(x1_of(parts, other)[1], x1_of(parts)[1])


def test_guidance_leads_away_from_another_null(parts):
    away = Conditioning(null=parts.text.encode([2]))
    assert not torch.allclose(x1_of(parts, away), x1_of(parts), atol=1e-3)
    assert torch.equal(x1_of(parts, away, scale=1.0), x1_of(parts, scale=1.0))  # unguided: no null


def test_rows_of_an_ask_follow_their_batches(parts):
    pixels = torch.arange(3 * 64).view(3, 1, 8, 8).byte()
    ask = Conditioning(
        cond=parts.text.encode([0, 1, 2]), x1=encode_images(parts, pixels, torch.device("cpu"))
    )
    ask = ask._replace(strength=0.5)
    asked = ([None] * 3, [5, 6, 7], draws(parts))
    whole, single = (
        sample_images(parts, *asked, batch=batch, conditioning=ask) for batch in (3, 1)
    )
    assert (whole.int() - single.int()).abs().max() <= 1
    assert rows_of(ask.cond, slice(1)).labels.tolist() == [0]


@pytest.mark.parametrize("solver", ["euler", "heun", "unipc2", "dopri5"])
def test_a_beginning_is_carried_back_and_walked_anew(parts, solver):
    pixels = torch.full((2, 1, 8, 8), 200, dtype=torch.uint8)
    x1 = encode_images(parts, pixels, torch.device("cpu"))
    seeds, items = [0, 1], [0, 1]
    walk = list(
        sample_steps(
            parts,
            items,
            seeds,
            draws(parts, solver=solver),
            conditioning=Conditioning(x1=x1, strength=0.5),
        )
    )
    start, x = walk[0].t, walk[0].x
    noise = next(sample_steps(parts, items, seeds, draws(parts))).x
    assert start == 0.5
    assert walk[-1].t == 1.0
    torch.testing.assert_close(x, 0.5 * x1 + 0.5 * noise)


def test_strength_1_forgets_the_beginning_and_a_little_keeps_it(parts):
    x1 = torch.full((2, 1, 8, 8), 0.7)
    assert torch.equal(x1_of(parts, Conditioning(x1=x1)), x1_of(parts))
    near = x1_of(parts, Conditioning(x1=x1, strength=0.01))
    far = x1_of(parts, Conditioning(x1=x1, strength=0.9))
    assert (near - x1).abs().mean() < 0.1 * (far - x1).abs().mean()


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.5])
def test_a_strength_that_cannot_be_is_refused(parts, strength):
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        x1_of(parts, Conditioning(x1=torch.zeros(2, 1, 8, 8), strength=strength))


def test_a_beginning_of_another_size_is_refused(parts):
    with pytest.raises(ValueError, match="Resize the initial image"):
        x1_of(parts, Conditioning(x1=torch.zeros(2, 1, 4, 4), strength=0.5))


@pytest.mark.parametrize("backbone", [STREAM, CROSS])
@pytest.mark.parametrize("sizes", [(), ((8, 8), (4, 16))])
def test_streams_and_cross_attention_draw_any_size(backbone, sizes):
    """Whether they were trained on one size or on several; what they were not is told of."""
    some = made(backbone, FACTS._replace(sizes=sizes))
    for size in ((4, 16), (12, 8)):
        pixels = sample_images(some, [0], [0], draws(some), conditioning=Conditioning(size=size))
        assert pixels.shape == (1, 1, *size)
    assert (untrained_size(some, (4, 16)) is None) == bool(sizes)
    assert "12x8 was not trained on, only 8x8" in (untrained_size(some, (12, 8)) or "")
    assert untrained_size(some, (8, 8)) is None
    assert untrained_size(some, None) is None


@pytest.mark.parametrize(
    ("head_group", "says"),
    [
        (1, None),
        (
            2,
            r"10x4.* multiple of the 4 pixels of a group.*objective\.head_group",
        ),
    ],
)
def test_sizes_that_a_head_cannot_tile_are_refused_before_training(head_group, says):
    facts = FACTS._replace(sizes=((8, 8), (10, 4)))
    objective = pick("transition", head_group=head_group)
    run = Run(text=pick("labels"), backbone=STREAM, objective=objective)
    with nullcontext() if says is None else pytest.raises(ValueError, match=says):
        assemble(run, facts)


@pytest.mark.parametrize("backbone", [DIT, DDT])
def test_a_table_of_places_draws_its_own_size_alone(backbone):
    one = made(backbone)
    assert x1_of(one, Conditioning(size=(8, 8))).shape[2:] == (8, 8)
    with pytest.raises(ValueError, match="position embeddings of this run's backbone are of 8x8"):
        x1_of(one, Conditioning(size=(4, 16)))
