"""Train a codec: the program of evaluation/training.py, and the codec it becomes."""

from collections.abc import Sequence
from pathlib import Path

from pathline.console import open_console, say_on
from pathline.evaluation.codec_hook import codec_trial, store_codec
from pathline.evaluation.training import EXIT, read_command, run_training
from pathline.ranges import Seed
from pathline.runs.codec_method import KIND
from pathline.runs.folder import Layers
from pathline.runs.resume import require_data


def codec_train(
    what: str | None = None,
    /,
    *overrides: str,
    config: Sequence[Path] = (),
    resume: str | None = None,
    out: Path | None = None,
    seed: Seed | None = None,
    device: str | None = None,
    debug: bool = False,
) -> int:
    """Train a codec on a preset's data or on your own images; `codec.path` then names its run.

    Parameters
    ----------
    what:
        shapes-kl, shapes-vq, shapes-fsq, digits-vq, emoji-kl, or a folder, parquet or tar file.
    overrides:
        Settings as key=value, such as train.updates=2000 or network.channels=8.
    config:
        A YAML file of settings; may be given several times, the last one wins.
    resume:
        "latest", a codec's run folder or one of its checkpoints.
    out:
        The new run's folder; by default runs/NAME-1, -2, …
    seed:
        Of weights, order and noise.
    device:
        auto, cpu, cuda, cuda:1, mps.
    debug:
        Show tracebacks.
    """
    del debug  # read by cli.py
    console = open_console()
    say = say_on(console)
    flags = {"seed": seed, "device": device}
    layers = Layers(what, config, overrides, flags)
    if resume is None:
        require_data(layers, KIND, KIND.root.presets)
    run, opened = read_command("codec", layers, resume=resume, out=out, say=say)
    trained = run_training(run, out, opened, console, method="codec")
    # A training that was stopped has no codec yet: it is resumed first.
    if trained.outcome.reason == "done":
        trial = codec_trial(trained.run, trained.data, trained.team.players[0])
        store_codec(trial, trained.folder, trained.outcome.progress.update, say)
    return EXIT[trained.outcome.reason]
