"""`pathline ema`: an average of the weights of any length, rebuilt after the training."""

from collections.abc import Sequence
from pathlib import Path

from pathline.console import open_console, say_on
from pathline.hints import command_line
from pathline.ranges import NotNegative, PowerLength
from pathline.runs import folder as runs
from pathline.runs.folder import AVERAGES
from pathline.training.power_ema import Snapshot, rebuild, snapshots, write

MAX_ERROR = 0.05  # of the profile, above which the average is another one than requested


def ema(
    run: Path,
    /,
    *,
    sigma_rel: PowerLength = 0.1,
    update: NotNegative | None = None,
    out: Path | None = None,
) -> int:
    """Rebuild an average of a run's weights, of any length, from the snapshots it stored.

    Parameters
    ----------
    run:
        A run folder, trained with train.power_ema.
    sigma_rel:
        Length of the average as a share of the training: usual are 0.02 … 0.2.
    update:
        The update of the average; the newest stored by default.
    out:
        The file to write; by default one in RUN/averages.
    """
    say = say_on(open_console())
    stored = stored_in(run)
    update = _update(stored, update)
    rebuilt = rebuild(stored, sigma_rel, update)
    if out and out.exists():
        raise ValueError(f"--out {out} exists. Choose another file; nothing was overwritten.")
    # The default name says what is in the file, so that the same average has the same name.
    out = out or run / AVERAGES / f"rebuilt-{sigma_rel}-{update:08d}.safetensors"
    write(out, rebuilt.weights, {"sigma_rel": repr(sigma_rel), "update": str(update)})
    # An average much shorter or longer than those stored is no mixture of them.
    if rebuilt.error > MAX_ERROR:
        lengths = sorted({snapshot.sigma_rel for snapshot in stored})
        say(
            f"warning: sigma_rel={sigma_rel} can't be rebuilt from snapshots of lengths {lengths}; "
            f"the file has the nearest average, {rebuilt.error:.0%} off.",
        )
    say(
        f"average {sigma_rel} of update {update} from {rebuilt.used} snapshots, profile "
        f"{rebuilt.error:.2%} off: {out}",
    )
    say(f"next: {command_line('generate', run, '--ema', out)}")
    return 0


def stored_in(run: Path) -> list[Snapshot]:
    """The snapshots of a run folder. Raises ValueError if there is none."""
    if not (run / runs.SETTINGS).is_file():
        raise ValueError(f"{run} is no run folder: it has no {runs.SETTINGS}.")
    stored = snapshots(run / AVERAGES)
    if not stored:
        raise ValueError(
            f"{run} has no snapshots of averages. Train with train.power_ema=[0.05,0.1]; one of "
            "each is stored every train.snapshot_every updates."
        )
    return stored


def _update(stored: Sequence[Snapshot], update: int | None) -> int:
    first, newest = stored[0].update, stored[-1].update
    if update is not None and not first <= update <= newest:
        raise ValueError(
            f"Snapshots are of updates {first} … {newest}; --update {update} is outside."
        )
    return newest if update is None else update
