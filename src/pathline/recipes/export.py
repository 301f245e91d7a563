"""`pathline export`: a run's weights as one safetensors file."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from pathline.console import open_console, say_on
from pathline.files import write_whole
from pathline.ranges import ShareBelowOne
from pathline.runs import folder as runs
from pathline.runs.contrastive_mean import PUSH_MEAN
from pathline.runs.sampling import parts_of
from pathline.training.checkpoint import bytes_of


def export(run: Path, /, *, out: Path, ema: ShareBelowOne | None = None) -> int:
    """Write a run's weights, however many processes trained them, as one safetensors file.

    The file has the run's settings in it: `pathline generate FILE` samples from it alone, and
    init=FILE begins a training with its weights.

    Parameters
    ----------
    run:
        A run folder, one of its checkpoints, or "latest".
    out:
        The file to write, FILE.safetensors; an existing one is not overwritten.
    ema:
        Which average of the weights; the run's first by default, 0 for the weights themselves.
    """
    say = say_on(open_console())
    if out.exists() or out.suffix != runs.WEIGHTS:
        reason = "exists" if out.exists() else f"does not end in {runs.WEIGHTS}"
        raise ValueError(f"--out {out} {reason}. Choose another file.")
    opened = runs.open_run(run, lambda text: say(f"warning: {text}"))
    parts, which = parts_of(opened, ema=ema, device=torch.device("cpu"))
    weights = {name: w.contiguous() for name, w in parts.network.state_dict().items()}
    count = len(weights)
    if parts.push is not None:  # what the sampler reads beside the network
        weights[PUSH_MEAN] = parts.push.mean.contiguous()
    about = runs.about_export(opened, which)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, lambda file: save_file(weights, file, about), need=bytes_of(weights))
    say(f"{which} of update {opened.update}, {count} tensors: {out}")
    return 0
