"""Transition matching and DDT put together by name: drawn, counted, refused where they misfit."""

from dataclasses import replace

import pytest
import torch

from pathline.assemble import assemble, sampler
from pathline.config.pick import Pick, pick
from pathline.config.presets.pixels import DIGITS, QUICKSTART
from pathline.config.run import Sample
from pathline.flow.paths import STRAIGHT
from pathline.generate import check_sampler, sample_images, sample_steps
from pathline.types import Batch, Facts

FACTS = Facts(1, 8, 8, names=tuple("0123456789"))
SCENES = Facts(3, 16, 16, words=("a", "circle", "red"))
TINY = {"depth": 1, "width": 16, "heads": 2, "patch": 2}
STEP = pick("transition", head_steps=2)


def parts_of(objective="transition", backbone="dit", facts=FACTS, run=DIGITS, **more):
    network = Pick(backbone, {**TINY, **more})
    parts = assemble(replace(run, objective=Pick(objective), backbone=network), facts)
    with torch.no_grad():
        for p in parts.network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return parts


def counting(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def drawing(**settings):
    return sampler(Sample(**{"steps": 4, **settings}), STRAIGHT)


@pytest.mark.parametrize("backbone", ["dit", "cross_dit", "stream_dit"])
@pytest.mark.parametrize(("run", "facts"), [(DIGITS, FACTS), (QUICKSTART, SCENES)])
def test_transition_goes_with_backbones_and_texts_by_name(backbone, run, facts):
    parts = parts_of(backbone=backbone, facts=facts, run=run)
    asked = ["a red circle", None, "red"] if facts.words else [4, None, 0]
    cond = parts.text.encode(asked)
    batch = Batch(torch.randn(3, *parts.shape()), cond, parts.text.null, torch.arange(3))
    rng = torch.Generator().manual_seed(0)
    value, _ = parts.objective.loss(parts.network, batch, rng, parts.draw, parts.criterion)
    value.backward()
    assert [n for n, p in parts.network.named_parameters() if p.grad is None] == []
    for scale, factor in ((1.0, 1), (2.0, 2)):
        backbones = counting(parts.network.backbone)
        drawn = drawing(solver=STEP, guidance=pick("cfg", scale=scale))
        pictures = sample_images(parts, asked, [5, 6, 7], drawn)
        assert len(backbones) == 4 * factor
        assert pictures.shape[0] == 3
        alone = sample_images(parts, asked[1:2], [6], drawn)
        assert (alone.float() - pictures[1:2].float()).abs().max() <= 1


def test_every_token_is_drawn_an_inner_time():
    """assemble tells the loss how large a head's token is."""
    parts, seen = parts_of(patch=4), []

    def asked(*inputs):
        seen.append(inputs[-1])
        return parts.network(*inputs)

    batch = Batch(
        torch.randn(3, 1, 8, 8), parts.text.encode([1, 2, 3]), parts.text.null, torch.arange(3)
    )
    parts.objective.loss(asked, batch, torch.Generator(), parts.draw, parts.criterion)
    assert seen[0].s.shape == (12, 2, 2)


@pytest.mark.parametrize("solver", ["dopri5", "euler", "unipc2"])
def test_other_solvers_are_refused_for_transitions(solver):
    with pytest.raises(ValueError, match=r"sample\.solver=transition"):
        check_sampler(parts_of(), drawing(solver=Pick(solver)))


def test_transitions_are_refused_for_velocities():
    with pytest.raises(ValueError, match="Train with objective=transition"):
        check_sampler(parts_of("flow"), drawing(solver=STEP))


def test_a_backbone_without_hidden_states_is_refused():
    with pytest.raises(ValueError, match=r"DDT takes no transition head"):
        parts_of(backbone="ddt", decoder=1)


def test_another_path_is_refused():
    with pytest.raises(ValueError, match="path=straight"):
        assemble(replace(DIGITS, objective=Pick("transition"), path=Pick("trig")), FACTS)


@pytest.mark.parametrize("run", [(DIGITS, FACTS), (QUICKSTART, SCENES)])
@pytest.mark.parametrize(
    ("share", "calls"),
    [("none", 8), (pick("every", steps=2), 4), (pick("program", calls=3), 3)],
)
def test_encoder_calls_are_as_planned(run, share, calls):
    parts = parts_of("flow", "ddt", run[1], run[0], decoder=1)
    ddt = parts.network.backbone
    share = Pick(share) if isinstance(share, str) else share
    for scale, factor in ((1.0, 1), (2.0, 2)):
        ways = {"steps": 8, "sharing": share, "guidance": pick("cfg", scale=scale)}
        encoder, decoder = counting(ddt.encoder), counting(ddt.decoder)
        list(sample_steps(parts, [None, None], [1, 2], drawing(**ways)))
        measured = 8 if share.name == "program" else 0
        assert len(encoder) == calls * factor + measured
        assert len(decoder) == 8 * factor + measured


def test_sharing_needs_an_encoder_and_fixed_steps():
    every = pick("every", steps=2)
    with pytest.raises(ValueError, match="backbone=ddt"):
        check_sampler(parts_of("flow"), drawing(sharing=every))
    with pytest.raises(ValueError, match="the solver chooses its steps"):
        drawing(sharing=every, solver=Pick("dopri5"))
    parts = parts_of("flow", "ddt", decoder=1)
    with pytest.raises(ValueError, match="4 steps but 8 evaluations"):
        list(
            sample_steps(
                parts, [1], [1], drawing(sharing=pick("program", calls=2), solver=Pick("heun"))
            )
        )
