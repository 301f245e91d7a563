"""One holder for all that is trained: weights have the same names whatever else is on."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

import pathline
from pathline.assemble import assemble
from pathline.backbones.network import ABILITIES, Network
from pathline.config.pick import Pick, pick
from pathline.config.presets.pixels import DIGITS
from pathline.types import Facts

FACTS = Facts(1, 8, 8, names=tuple("0123456789"), words=("a", "red", "circle"))
TINY = {"depth": 3, "width": 16, "heads": 2, "patch": 2}
TEXTS = ("labels", "words", "none")
OBJECTIVES = ("flow", "mean_flow", "transition")
ROUTES = ("none", "tread", "sprint")
CHILDREN = {"words", "backbone", "head", "projector"}
# what a backbone has only with this text, time, route, or without a head
OPTIONAL = ("label_table", "text", "interval", "fuse", "final")


def network_of(text, objective, route, has_projector):
    options = {**TINY, "route": route, "route_before": 1, "route_after": 1}
    options["takes_r"] = objective == "mean_flow"
    run = replace(DIGITS, text=Pick(text), objective=Pick(objective), backbone=Pick("dit", options))
    if not has_projector:
        return assemble(run, FACTS).network
    terms = {"mse": 1.0, "alignment": {"weight": 0.5, "width": 8}}
    run = replace(run, terms=terms, vision=pick("encoder", path="nowhere"))
    return assemble(run, FACTS._replace(vision="an encoder", vision_width=6)).network


def test_names_of_weights_depend_on_no_setting():
    """The names below a child are the same in all runs that have it, and begin with its own."""
    always = set(network_of("none", "flow", "none", False).state_dict())
    assert "backbone.patch.weight" in always
    children = {}
    for case in product(TEXTS, OBJECTIVES, ROUTES, (False, True)):
        network = network_of(*case)
        assert isinstance(network, Network)
        names = set(network.state_dict())
        assert {name.split(".")[0] for name in names} <= CHILDREN
        plain = {name for name in always if name.split(".")[1] not in OPTIONAL}
        backbone = {name for name in names if name.startswith("backbone.")}
        assert {name for name in backbone if name.split(".")[1] not in OPTIONAL} == plain, case
        for child in names - backbone:
            key = child.split(".")[0]
            children.setdefault(key, names_below(names, key))
            assert names_below(names, key) == children[key], case
    assert children.keys() == CHILDREN - {"backbone"}


def names_below(names, child):
    return {name for name in names if name.startswith(f"{child}.")}


def test_first_weights_of_the_backbone_depend_on_no_other_child():
    plain = network_of("labels", "flow", "none", False).state_dict()
    for objective, has_projector in (("transition", False), ("flow", True), ("transition", True)):
        weights = network_of("labels", objective, "none", has_projector).state_dict()
        both = plain.keys() & weights.keys()
        assert {name for name in plain if name not in both} <= {
            name for name in plain if name.startswith("backbone.final.")
        }
        assert all(torch.equal(plain[name], weights[name]) for name in both)


@pytest.mark.parametrize(
    ("route", "takes_r", "abilities"),
    [
        ("none", False, {"head"}),
        ("tread", False, {"head", "route"}),
        ("sprint", True, {"head", "route", "join", "r"}),
    ],
)
def test_abilities_are_attributes_of_the_backbone(route, takes_r, abilities):
    network = network_of("labels", "mean_flow" if takes_r else "flow", route, False)
    assert {ability for ability in ABILITIES if network.has(ability)} == abilities
    assert not any(Network(torch.nn.Linear(1, 1)).has(ability) for ability in ABILITIES)


def test_no_protocol_is_checked_at_run_time():
    """From Python 3.12 on isinstance with one does not see the submodules of a nn.Module."""
    files = Path(pathline.__file__).parent.rglob("*.py")
    assert [file.name for file in files if "runtime_checkable" in file.read_text("utf-8")] == []
