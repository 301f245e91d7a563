"""Power-function averages: closed forms, inner products, rebuilding, files that are whole."""

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from pathline.training.hooks import snapshot_hook
from pathline.training.loop import Progress
from pathline.training.power_ema import (
    LONGEST,
    forget,
    gamma_of,
    inner,
    mixture,
    power_function,
    read,
    rebuild,
    sigma_of,
    snapshots,
    store,
)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.972), (0.1, 6.937)])
def test_lengths_of_the_paper(sigma_rel, gamma):
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=2e-3)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25, LONGEST])
def test_length_and_power_are_inverse(sigma_rel):
    assert sigma_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3])
def test_a_length_that_cannot_be_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"0.2887\]"):
        gamma_of(sigma_rel)


def ramp(average, network, updates, start=0):
    """Weights that are τ after update τ, all of them."""
    for n in range(start, updates):
        for p in network.parameters():
            p.data.fill_(float(n + 1))
        average.update(network, n)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, LONGEST])
def test_the_average_of_a_ramp_is_the_closed_form(sigma_rel):
    """Update τ weighs (τ/t)^(γ+1) − ((τ−1)/t)^(γ+1), so the mean is t − Σ_{τ<t} (τ/t)^(γ+1)."""
    network = nn.Linear(1, 1, bias=False)
    average = power_function(network, sigma_rel)
    ramp(average, network, 200)
    power = gamma_of(sigma_rel) + 1
    exact = 200 - sum((n / 200) ** power for n in range(200))
    assert average.weights["weight"].item() == pytest.approx(exact, rel=1e-5)
    assert exact == pytest.approx(200 * power / (power + 1) + 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b"), [((16.97, 300), (6.94, 300)), ((6.94, 100), (16.97, 300)), ((3.0, 300), (8.0, 50))]
)
def test_the_inner_product_is_the_integral(a, b):
    t = np.linspace(0, min(a[1], b[1]), 200_001)
    curves = [(g + 1) * (t / end) ** g / end for g, end in (a, b)]
    integral = torch.trapezoid(torch.from_numpy(curves[0] * curves[1]), torch.from_numpy(t)).item()
    assert inner(a, b) == pytest.approx(integral, rel=1e-4)
    assert inner(a, b) == inner(b, a)


GAMMAS = [gamma_of(0.05), gamma_of(0.1)]
STORED = [(gamma, t) for t in range(100, 1001, 100) for gamma in GAMMAS]


@pytest.mark.parametrize("index", range(0, len(STORED), 5))
def test_a_stored_profile_is_rebuilt_from_itself_alone(index):
    shares, error = mixture(STORED, STORED[index])
    wanted = np.eye(len(STORED))[index]
    np.testing.assert_allclose(shares, wanted, atol=1e-6)
    assert error < 1e-6


def test_lengths_between_are_had_and_a_far_shorter_one_is_not():
    assert mixture(STORED, (gamma_of(0.075), 1000))[1] < 0.01
    assert mixture(STORED, (gamma_of(0.15), 1000))[1] < 0.05
    assert mixture(STORED, (gamma_of(0.005), 1000))[1] > 0.5
    assert sum(mixture(STORED, (gamma_of(0.07), 950))[0]) == pytest.approx(1)


def stored_run(folder, lengths=(0.05, 0.1), updates=400, every=50):
    """A run of random-walking weights, snapshots of it, and one average that was not stored."""
    network, rng = nn.Linear(4, 3), torch.Generator().manual_seed(0)
    averages = [power_function(network, sigma_rel) for sigma_rel in lengths]
    direct = power_function(network, 0.07)
    for n in range(updates):
        for p in network.parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=rng)
        for average in (*averages, direct):
            average.update(network, n)
        if (n + 1) % every == 0:
            for average in averages:
                store(folder, average, n + 1)
    return averages, direct, network


def test_a_rebuilt_average_is_the_one_that_was_not_stored(tmp_path):
    averages, direct, network = stored_run(tmp_path)
    found = snapshots(tmp_path)
    assert len(found) == 16
    again = rebuild(found, 0.1, 400).weights
    near = rebuild(found, 0.07, 400)
    for name, weight in averages[1].weights.items():
        torch.testing.assert_close(again[name], weight)
        spread = (direct.weights[name] - network.get_parameter(name)).norm()
        assert (near.weights[name] - direct.weights[name]).norm() < 0.05 * spread
    assert near.weights["weight"].dtype == torch.float32


def test_an_earlier_average_uses_no_later_snapshot(tmp_path):
    stored_run(tmp_path)
    assert rebuild(snapshots(tmp_path), 0.07, 200).used == 8


def test_a_run_that_goes_on_forgets_what_came_later(tmp_path):
    stored_run(tmp_path)
    (tmp_path / ".power-0.1-00000400.safetensors.tmp").write_bytes(b"half")
    forget(tmp_path, after=300)
    assert not list(tmp_path.glob(".*"))
    assert {found.update for found in snapshots(tmp_path)} == set(range(50, 301, 50))


def test_a_restored_average_goes_on_bit_for_bit():
    network = nn.Linear(2, 2)
    straight, first, second = (power_function(network, 0.1) for _ in range(3))
    ramp(straight, network, 10)
    ramp(first, network, 5)
    second.restore(first.state())
    ramp(second, network, 10, start=5)
    assert torch.equal(straight.weights["weight"], second.weights["weight"])


def test_a_cut_snapshot_is_named(tmp_path):
    stored_run(tmp_path, updates=50)
    file = next(tmp_path.glob("power-0.1-*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=file.name):
        snapshots(tmp_path)
    (tmp_path / "power-0.1-00000001.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="not an average"):
        snapshots(tmp_path)


def test_reading_gives_the_weights_or_says_what_is_wrong(tmp_path):
    average = power_function(nn.Linear(1, 1), 0.1)
    store(tmp_path, average, 3)
    weights = read(tmp_path / "power-0.1-00000003.safetensors")
    assert torch.equal(weights["weight"], average.weights["weight"])
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"foreign\.safetensors is not an average"):
        read(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError, match="pathline ema"):
        read(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch, kind):
    def full(_tensors, path, _about):
        path.write_bytes(b"half")
        raise kind("No space left on device")

    said, average = [], power_function(nn.Linear(1, 1), 0.1)
    monkeypatch.setattr("pathline.training.power_ema.save_file", full)
    snapshot_hook([average], tmp_path, said.append)(Progress(7, 70), {})
    assert "power-0.1 of update 7" in said[0]
    assert "No space" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_only_one_rank_writes(tmp_path):
    average = power_function(nn.Linear(1, 1), 0.1)
    store(tmp_path, average, 1, writes=False)
    assert list(tmp_path.iterdir()) == []
    assert average.name == "power-0.1"
