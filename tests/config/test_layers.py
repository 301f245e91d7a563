"""nest, merge, build."""

from dataclasses import dataclass, field

import pytest

from pathline.config.layers import build, flatten, keys_of, merge, nest, to_tree
from pathline.config.pick import Pick, pick
from pathline.config.values import Problem


@dataclass(frozen=True)
class Inner:
    depth: int = 3
    rates: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    inner: Inner = Inner()
    step: Pick = field(default_factory=lambda: pick("sde", churn=1.0))
    terms: dict[str, float | dict] = field(default_factory=lambda: {"mse": 1.0})


def test_nest():
    assert nest("a.b.c", 3) == {"a": {"b": {"c": 3}}}
    assert nest("a", 3) == {"a": 3}


@pytest.mark.parametrize(
    ("low", "high", "got"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": {"b": 1}}),  # an empty section says nothing
        ({"a": 1}, {"a": None}, {"a": None}),
        # a Pick: the same row keeps its options, another one drops them
        ({"p": {"name": "x", "k": 1}}, {"p": {"l": 2}}, {"p": {"name": "x", "k": 1, "l": 2}}),
        ({"p": {"name": "x", "k": 1}}, {"p": "x"}, {"p": {"name": "x", "k": 1}}),
        ({"p": {"name": "x", "k": 1}}, {"p": "y"}, {"p": {"name": "y"}}),
        ({"p": {"name": "x", "k": 1}}, {"p": {"name": "y", "l": 2}}, {"p": {"name": "y", "l": 2}}),
        ({"p": "x"}, {"p": {"k": 1}}, {"p": {"name": "x", "k": 1}}),
        ({"p": "x"}, {"p": "y"}, {"p": "y"}),
        # a loss term
        ({"t": 1.0}, {"t": {"delta": 2}}, {"t": {"weight": 1.0, "delta": 2}}),
        ({"t": {"weight": 1.0, "delta": 2}}, {"t": 0.5}, {"t": {"weight": 0.5, "delta": 2}}),
        # a name at the root names the run, not a row
        ({"name": "x", "a": 1}, {"name": "y"}, {"name": "y", "a": 1}),
        # nonsense is kept for build to refuse
        ({"s": {"k": 1}}, {"s": "fast"}, {"s": "fast"}),
        ({"s": {"k": 1}}, {"s": 3}, {"s": 3}),
        ({"p": {"name": "x"}}, {"p": 3}, {"p": 3}),
    ],
)
def test_merge(low, high, got):
    before = repr((low, high))
    assert merge(low, high) == got
    assert repr((low, high)) == before


def test_merge_is_associative_over_layers_of_options():
    a, b, c = {"p": {"name": "x", "k": 1}}, {"p": {"l": 2}}, {"p": {"k": 3}}
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


def test_build_converts_and_fills_in():
    made = build(Outer, {"inner": {"depth": "1e1"}, "step": "euler", "terms": {"l1": "0.5"}})
    assert made == Outer(inner=Inner(depth=10), step=Pick("euler"), terms={"l1": 0.5})


def test_options_alone_go_to_the_default_row():
    assert build(Outer, {"step": {"kind": "a"}}).step == pick("sde", churn=1.0, kind="a")


def test_round_trip():
    made = Outer("y", Inner(2, (0.1, 0.2)), pick("z", a=[1]), {"l1": {"weight": 1.0, "k": 2}})
    assert build(Outer, to_tree(made)) == made


def test_all_problems_at_once():
    found: list[Problem] = []
    tree = {
        "inner": {"dpeth": 1, "depth": "deep", "rates": [1, "x"]},
        "depth": 2,
        "modle": {"a": 1},
        "churn": 2,
        "step": {"name": 3, "churn": 1},
        "terms": {"mse": True},
    }
    made = build(Outer, tree, found)
    said = {problem.key: problem.message for problem in found}
    assert "Did you mean inner.depth?" in said["inner.dpeth"]
    assert "Did you mean inner.depth?" in said["depth"]
    assert "Did you mean step.churn?" in said["churn"]
    assert said["modle"] == "is not a setting."
    assert said["inner.depth"] == "=deep is wrong because it must be a whole number."
    assert {"inner.rates", "step.name", "terms.mse"} <= said.keys()
    assert made.inner == Inner()
    with pytest.raises(ValueError, match=r"(?s)inner.dpeth.*terms") as error:
        build(Outer, tree)
    assert str(error.value).count("\n") == len(found) - 1


@pytest.mark.parametrize("value", [3, "fast", [1], True])
def test_a_section_wants_settings(value):
    with pytest.raises(ValueError, match=r"inner=.* is wrong because it is a section"):
        build(Outer, {"inner": value})


def test_an_empty_section_says_nothing():
    assert build(Outer, {"inner": None, "step": None, "terms": {}}) == Outer(terms={})


def test_flatten_and_keys():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}
    assert list(keys_of(Outer)) == [
        *("name", "inner", "inner.depth", "inner.rates", "step", "terms"),
    ]
