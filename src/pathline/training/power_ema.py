"""Averages of power-function profile, and others of such a profile rebuilt from them later.

EDM2 (arXiv 2312.02696, section 3 and appendix C). The weights at update τ of t count as τ^γ; the
length of an average is sigma_rel, the standard deviation of its profile as a share of t.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pathline.files import write_whole
from pathline.training.distributed import whole
from pathline.training.ema import Ema, Weights

LONGEST = 12**-0.5  # sigma_rel of γ = 0: the plain mean over all updates
SUFFIX = ".safetensors"
Profile = tuple[float, float | int]  # (γ, t): p(τ) = (γ + 1)·τ^γ / t^(γ + 1) on (0, t]


def power_function(network: nn.Module, sigma_rel: float) -> Ema:
    """An average whose length is at all times the share sigma_rel of the run."""
    gamma = gamma_of(sigma_rel)
    name = f"power-{sigma_rel}"
    return Ema(network, name, lambda n: (1 - 1 / (n + 1)) ** (gamma + 1), sigma_rel)


class Snapshot(NamedTuple):
    """An average as it was after so many updates."""

    sigma_rel: float
    update: int
    file: Path

    @property
    def profile(self) -> Profile:
        return gamma_of(self.sigma_rel), self.update


class Rebuilt(NamedTuple):
    weights: Weights  # float32
    error: float  # of the profile, as a share of its own size
    used: int  # snapshots


def sigma_of(gamma: float) -> float:
    """sigma_rel of τ^γ."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def gamma_of(sigma_rel: float) -> float:
    """γ ≥ 0 of an average sigma_rel long. Raises ValueError outside (0, 0.2886]."""
    if not 0 < sigma_rel <= LONGEST:
        raise ValueError(
            f"sigma_rel={sigma_rel} is wrong because the length of an average is in "
            f"(0, {LONGEST:.4f}], where the longest is the mean over the run. Usual is 0.02 … 0.2."
        )
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(0.0, float(roots.real.max()))


def inner(a: Profile, b: Profile) -> float:
    """The integral of p_a·p_b."""
    (gamma_a, t_a), (gamma_b, t_b) = a, b
    ratio = (t_a / t_b) ** gamma_b if t_a < t_b else (t_b / t_a) ** gamma_a
    return (gamma_a + 1) * (gamma_b + 1) * ratio / ((gamma_a + gamma_b + 1) * max(t_a, t_b))


def mixture(stored: Sequence[Profile], target: Profile) -> tuple[list[float], float]:
    """Shares of the stored profiles, summing to 1, whose sum is closest to the target profile, and
    the remaining error, as a share of the target's size."""
    a = np.array([[inner(row, column) for column in stored] for row in stored])
    b = np.array([inner(profile, target) for profile in stored])
    # Scaled to unit profiles: early ones are larger by orders of magnitude.
    size = np.sqrt(np.diag(a))
    shares = np.linalg.lstsq(a / np.outer(size, size), b / size, rcond=1e-14)[0] / size
    shares /= shares.sum()
    full = inner(target, target)
    left = max(0.0, full - 2 * shares @ b + shares @ a @ shares)
    return shares.tolist(), float(np.sqrt(left / full))


def store(folder: Path, average: Ema, update: int, *, writes: bool = True) -> None:
    """Write the average as a snapshot, whole or not at all. Every rank calls; one `writes`."""
    # Sharded weights are gathered one at a time, on every rank, for gathering is collective.
    weights: Weights = {}
    for name, weight in average.state().items():
        full = whole(weight)
        if writes:
            weights[name] = full.cpu()
    if writes:
        about = {"sigma_rel": repr(average.sigma_rel), "update": str(update)}
        write(folder / f"{average.name}-{update:08d}{SUFFIX}", weights, about)


def write(file: Path, weights: Weights, about: Mapping[str, str]) -> None:
    """A safetensors file of weights that is there whole or not at all. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: weight.cpu().contiguous() for name, weight in weights.items()}
    try:
        write_whole(file, lambda path: save_file(contiguous, path, dict(about)))
    except SafetensorError as error:  # which is what a full disk is to it
        raise OSError(f"{file} can't be written: {error}") from None


def read(file: Path) -> Weights:
    """The weights of a snapshot or a rebuilt average. Raises ValueError, FileNotFoundError."""
    _snapshot(file)
    return load_file(file)


def snapshots(folder: Path) -> list[Snapshot]:
    """Stored snapshots, by update. Raises ValueError for a file that is not one."""
    stored = [_snapshot(file) for file in folder.glob(f"power-*{SUFFIX}")]
    return sorted(stored, key=lambda snapshot: (snapshot.update, snapshot.sigma_rel))


def forget(folder: Path, after: int) -> None:
    """Delete snapshots later than update `after`, which a resumed run stores again, and files that
    a kill left half written."""
    for half in folder.glob(".*"):
        half.unlink()
    for snapshot in snapshots(folder):
        if snapshot.update > after:
            snapshot.file.unlink()


def rebuild(stored: Sequence[Snapshot], sigma_rel: float, update: int) -> Rebuilt:
    """The average of length sigma_rel as of `update`, from the snapshots up to it."""
    stored = [snapshot for snapshot in stored if snapshot.update <= update]
    # Least squares between profiles, not weights: what a mixture averages is known in advance.
    target = (gamma_of(sigma_rel), update)
    shares, error = mixture([snapshot.profile for snapshot in stored], target)
    # float64, because shares of opposite signs nearly cancel; one tensor at a time, for memory.
    total: Weights = {}
    for snapshot, share in zip(stored, shares, strict=True):
        with safe_open(snapshot.file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (safe_open is no mapping)
                part = opened.get_tensor(name).double() * share
                total[name] = total[name].add_(part) if name in total else part
    return Rebuilt({name: weight.float() for name, weight in total.items()}, error, len(stored))


def _snapshot(file: Path) -> Snapshot:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist. Name a file of averaged weights, which pathline ema writes."
        )
    try:
        with safe_open(file, "pt") as opened:
            # Length and update are read from the file, not from its name.
            about = opened.metadata()
        return Snapshot(float(about["sigma_rel"]), int(about["update"]), file)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not an average that pathline stored ({error}). Name another, or delete it "
            "if it is in the averages of a run."
        ) from None
