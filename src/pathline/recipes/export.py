"""`pathline export`: a run's weights as one safetensors file."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from pathline.console import open_console, say_on
from pathline.runs import folder as runs
from pathline.runs.sampling import parts_of


def export(run: Path, /, *, out: Path, ema: float | None = None) -> int:
    """Write a run's weights, however many processes trained them, as one safetensors file.

    Parameters
    ----------
    run:
        A run folder, one of its checkpoints, or "latest".
    out:
        The file to write; an existing one is not overwritten.
    ema:
        Which average of the weights; the run's first by default, 0 for the weights themselves.
    """
    say = say_on(open_console())
    if out.exists():
        raise ValueError(f"--out {out} exists. Choose another file.")
    opened = runs.open_run(run, lambda text: say(f"warning: {text}"))
    parts, which = parts_of(opened, ema=ema, device=torch.device("cpu"))
    weights = {name: w.contiguous() for name, w in parts.network.state_dict().items()}
    about = {"run": (opened.checkpoint / runs.SETTINGS).read_text(), "weights": which}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out, about)
    say(f"{which} of update {int(opened.checkpoint.name[5:])}, {len(weights)} tensors: {out}")
    return 0
