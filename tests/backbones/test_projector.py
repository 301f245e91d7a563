"""A projector upon any network: asked for, it shows the tokens on their grid; else it is idle."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pathline.assemble import assemble, sampler
from pathline.backbones.network import Network
from pathline.backbones.projector import build_projector
from pathline.config.pick import Pick, pick
from pathline.config.presets.pixels import DIGITS
from pathline.config.run import Sample
from pathline.flow.paths import STRAIGHT
from pathline.generate import sample_images
from pathline.types import Batch, Call, Facts, Output

FACTS = Facts(1, 8, 8, names=tuple("0123456789"), vision="an encoder", vision_width=6)
TINY = {"depth": 2, "width": 16, "heads": 2, "patch": 2}
EYES = {"vision": pick("encoder", path="nowhere")}
MANY = [  # objective, backbone, its options
    ("flow", "dit", {"feature_layer": 1}),
    ("flow", "cross_dit", {}),
    ("flow", "stream_dit", {}),
    ("flow", "ddt", {"decoder": 1}),
    ("transition", "dit", {"feature_layer": 1}),
    ("mean_flow", "dit", {"takes_r": True}),
    ("alpha_flow", "stream_dit", {"takes_r": True}),
]


def parts_of(objective="flow", backbone="dit", facts=FACTS, **more):
    settings = more.pop("term", {})
    terms = {"mse": 1.0, "alignment": {"weight": 0.5, "width": 8, **settings}}
    run = replace(DIGITS, objective=Pick(objective), terms=terms, **EYES)
    return assemble(replace(run, backbone=Pick(backbone, {**TINY, **more})), facts)


def batch_of(parts, features=True, count=4):
    rng = torch.Generator().manual_seed(3)
    x1 = torch.randn(count, *parts.shape(), generator=rng)
    found = torch.randn(count, 6, 3, 3, generator=rng) if features else None
    cond = parts.text.encode(list(range(count)))
    return Batch(x1, cond, parts.text.null, torch.arange(count), found)


def loss_of(parts, batch):
    rng = torch.Generator().manual_seed(0)
    return parts.objective.loss(parts.network, batch, rng, parts.draw, parts.criterion)


def gradients(parts):
    return {n: p.grad for n, p in parts.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("projector", ["conv", "mlp"])
@pytest.mark.parametrize(("objective", "backbone", "more"), MANY)
def test_every_objective_and_backbone_learns_with_it_by_name(objective, backbone, more, projector):
    parts = parts_of(objective, backbone, term={"projector": projector}, **more)
    value, terms = loss_of(parts, batch_of(parts))
    assert set(terms) == {"mse", "alignment"}
    assert 0 < terms["alignment"] < 2
    value.backward()
    found = gradients(parts)
    assert found.keys() == dict(parts.network.named_parameters()).keys()
    assert any(found[name].any() for name in found if name.startswith("projector."))
    assert any(found[name].any() for name in found if ".patch." in name)


def test_without_features_the_loss_is_the_plain_one_and_the_projector_gets_a_gradient_of_zero():
    parts = parts_of()
    plain = assemble(
        replace(DIGITS, backbone=Pick("dit", TINY)), FACTS._replace(vision="", vision_width=0)
    )
    weights = parts.network.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in plain.network.state_dict().items()
    )
    batch = batch_of(parts, features=False)
    value, terms = loss_of(parts, batch)
    assert set(terms) == {"mse"}
    assert value == loss_of(plain, batch)[0]
    value.backward()
    found = gradients(parts)
    idle = [name for name in found if name.startswith("projector.")]
    assert len(idle) == 2
    assert not any(found[name].any() for name in idle)


def test_projected_tokens_lie_on_the_grid_of_the_picture():
    class Stub(nn.Module):
        shape = type("Shape", (), {"width": 3, "patch": 2})

        def forward(self, x, *_):
            tokens = torch.arange(3.0 * 6).view(1, 6, 3)
            return Output(x, tokens)

    parts = parts_of()
    stub = Stub()
    network = Network(stub, projector=build_projector(stub, 3, kind="conv", width=8))
    assert isinstance(network.projector, nn.Conv2d)
    assert network.projector.bias is not None
    nn.init.dirac_(network.projector.weight)
    nn.init.zeros_(network.projector.bias)
    x = torch.zeros(1, 1, 4, 6)
    out = network(x, torch.zeros(1), parts.text.null, Call(project=True))
    assert out.projected.shape == (1, 3, 2, 3)
    assert torch.equal(out.projected[0, 0], torch.arange(6.0).view(2, 3) * 3)


@pytest.mark.parametrize("objective", ["flow", "transition"])
def test_drawing_never_asks_the_projector(objective):
    parts = parts_of(objective)
    calls = []
    parts.network.get_submodule("projector").register_forward_hook(lambda *_: calls.append(1))
    solver = pick("transition", head_steps=1) if objective == "transition" else Pick("euler")
    drawn = sampler(Sample(steps=2, solver=solver), STRAIGHT)
    assert sample_images(parts, [1, None], [5, 6], drawn).shape == (2, 1, 8, 8)
    assert not calls


def test_what_misfits_is_refused_at_assembly():
    with pytest.raises(ValueError, match=r"terms.alignment .* vision=encoder vision.path"):
        parts_of(facts=FACTS._replace(vision="", vision_width=0))
    with pytest.raises(
        ValueError, match=r"vision=encoder has no effect because no loss term reads"
    ):
        assemble(replace(DIGITS, **EYES), FACTS)
    with pytest.raises(ValueError, match=r"Linear has no hidden states"):
        build_projector(nn.Linear(1, 1), 6, kind="conv", width=8)
