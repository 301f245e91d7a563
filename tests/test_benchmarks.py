"""Pure parts of the benchmarks, on cases with a known answer."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pathline.config.resolve import PRESETS
from pathline.config.run import terms_of

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A script of benchmarks/ as a module; they import one another by bare names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


def test_w2_of_a_shift_is_its_length_whatever_the_order(script) -> None:
    plane = script("plane")
    x = np.random.default_rng(0).normal(size=(40, 2))
    shifted = x[::-1] + np.array([3.0, 4.0])
    assert plane.w2(x, shifted) == pytest.approx(5.0)


def test_energy_of_straight_ways_is_their_squared_length(script) -> None:
    plane = script("plane")
    x0, far = torch.randn(2, 10, 2), torch.tensor([3.0, 4.0])
    straight = [(t, x0 + t * far) for t in (0.0, 0.2, 0.7, 1.0)]
    torch.testing.assert_close(plane.energy(straight), torch.full((2,), 25.0))
    late = [(t, x0 + t**2 * far) for t in np.linspace(0, 1, 1001).tolist()]
    detour = plane.energy(late)  # ∫ (2t)² dt = 4/3
    torch.testing.assert_close(detour, torch.full((2,), 25.0 * 4 / 3), rtol=1e-3, atol=0)


def test_networks_trained_at_once_do_not_feel_one_another(script) -> None:
    plane = script("plane")
    networks = plane.Networks(3, 3)
    x = torch.randn(3, 5, 3)
    networks(x)[1].square().sum().backward()
    for weight in networks.weights:
        assert weight.grad[1].abs().sum() > 0
        assert weight.grad[[0, 2]].abs().sum() == 0


def test_points_of_two_couplings_differ_in_noise_alone(script) -> None:
    couplings, plane = script("couplings"), script("plane")
    ends = couplings.TASKS["moons→8gaussians"]
    apart, paired = (
        plane.points_of(plane.Cell("", name, 0), ends, 64)() for name in ("independent", "optimal")
    )
    assert torch.equal(apart.x1, paired.x1)
    assert torch.equal(apart.t, paired.t)
    assert torch.equal(apart.x0.sort(0).values, paired.x0.sort(0).values)
    lengths = [(point.x1 - point.x0).square().sum() for point in (apart, paired)]
    assert lengths[1] < 0.7 * lengths[0]


def test_shares_of_probes_are_paired_by_round(script) -> None:
    probes = script("probes")
    plain = [1.0, 2.0, 4.0]  # a host that grows busier
    took = {
        "plain": plain,
        "between": [1.01 * s for s in plain],
        "probed": [1.01 * 1.5 * s for s in plain],
    }
    found = probes.share(took, 100)
    assert found["between"] == pytest.approx(0.01)
    assert found["all"] == pytest.approx(0.015)


def test_ratios_of_costs_are_paired_by_round(script) -> None:
    costs = script("costs")
    assert costs.ratios([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == pytest.approx((2.0, 2.0, 2.0))


def test_the_decoupled_arm_keeps_the_presets_size(script) -> None:
    arms = script("arms")
    flow, ddt = (arms.settings("digits", name, []).backbone.options for name in ("flow", "ddt"))
    assert ddt == {**flow, "depth": flow["depth"] - 1, "decoder": 1}


def test_the_mean_flow_arm_learns_as_its_preset_does(script) -> None:
    arm, preset = (
        script("arms").settings("digits", "mean_flow", []),
        PRESETS["digits-mean-flow"],
    )
    assert (arm.backbone, arm.objective) == (preset.backbone, preset.objective)
    assert terms_of(arm) == terms_of(preset)


def test_seeds_are_summed_up_and_what_is_there_is_not_done_again(script, tmp_path: Path) -> None:
    objectives = script("objectives")
    rows = [
        {"arm": "flow", "seed": seed, "share": 0.0, "drawn": "euler", "distances": {"4": seed}}
        for seed in (0, 1, 5)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = objectives.grouped(objectives.rows_of(tmp_path))
    assert objectives.summary(groups["flow", "euler", 0.0]) == {4: (2.0, 2.5)}
    given = SimpleNamespace(out=tmp_path, arms=["flow", "ot"], seeds=[1, 2], share=0.0)
    assert list(objectives.arms_left(given)) == [("ot", 1), ("flow", 2), ("ot", 2)]
    given.share = 0.7  # another question
    assert len(list(objectives.arms_left(given))) == 4


def test_the_house_counts_bindings_and_banned_names(script) -> None:
    house = script("house")
    code = (
        "def found(given, x):\n    seen = x.kept\n    return seen\nclass Way_:\n    size: int = 1\n"
    )
    banned, bindings = house.banned_names([house.ast.parse(code)])
    assert dict(banned) == {"found": 1, "given": 1, "seen": 1, "way": 1}
    assert bindings == 6  # with x and size


def test_the_house_follows_imports_to_modules_and_refuses_a_cycle(script) -> None:
    house = script("house")
    names = ["p", "p.a", "p.b", "p.b.c"]
    code = "import p.a\nfrom p import b\nfrom p.b import c, name\nfrom elsewhere import p\n"
    assert house.imports_of(house.ast.parse(code), names) == {"p.a", "p.b", "p.b.c"}
    assert house.longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="imports itself"):
        house.longest_chain({"a": {"b"}, "b": {"a"}})


def test_the_house_measures_functions_without_their_docstrings(script) -> None:
    house = script("house")
    head = "class A:\n    def f(self, a, /, b, *, c):\n"
    code = head + '        """Text.\n        """\n        a\n        b\n'
    ((name, function),) = house.functions({"m": house.ast.parse(code)})
    assert (name, house.body_lines(function), house.positional(function)) == ("m:f", 2, 2)


def test_the_house_sees_which_modules_a_work_opens(script) -> None:
    house = script("house")
    opened = house.modules_opened(lambda: terms_of(PRESETS["digits"]))
    assert opened == {"config/run.py"}


def test_the_house_prints_what_the_source_shows(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["house.py", "--static"])
    script("house").main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.startswith(("ok  ", "OVER")) for line in lines)


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_what_a_script_uses_is_there(name, script) -> None:
    module = script(name)
    assert module.__doc__
