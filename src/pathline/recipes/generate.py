"""`pathline generate`: sample images from a run, as PNG files that say how they were made."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from pathline.console import Say, open_console, say_on
from pathline.hints import command_line
from pathline.parts import Parts
from pathline.ranges import NotNegative, NotNegativeFloat, Positive, Seed, ShareAboveZero
from pathline.runs import folder as runs
from pathline.runs.picture_files import prepare_request, write_images
from pathline.runs.prompts import InputFlags, PromptFlags
from pathline.runs.sampling import full_keys, parts_of, sampling_settings, split_words
from pathline.text.table import reads_of
from pathline.training.device import pick_device

OPTIONS = ("n", "label", "negative", "size", "init", "strength", "seed", "out", "weak", "device")


def generate(
    run: Path,
    /,
    *prompts: str,
    n: Positive | None = None,
    steps: Positive | None = None,
    solver: str | None = None,
    guidance: NotNegativeFloat | None = None,
    label: NotNegative | None = None,
    class_grid: bool = False,
    prompt_file: Path | None = None,
    from_cache: Sequence[str] = (),
    negative: str | None = None,
    size: str | None = None,
    init: Path | None = None,
    strength: ShareAboveZero = 0.6,
    seed: Seed = 0,
    trajectory: bool = False,
    out: Path | None = None,
    ema: float | Path | None = None,
    weak: Path | None = None,
    device: str = "auto",
    debug: bool = False,
) -> int:
    """Sample images from a trained run.

    Parameters
    ----------
    run:
        A run folder, one of its checkpoints, or "latest".
    prompts:
        Prompts, each in quotes, and sampling settings as key=value: steps=20, guidance=3,
        solver=heun, grid=edm, guidance=interval guidance.low=0.2 (`sample.` before them may be left
        out). A word that begins with letters, digits or dots and "=" is a setting; write a prompt
        that begins so with a space before it. Without prompts: unconditional images.
    n:
        Images of each prompt or label: 1 by default, 8 with --class-grid, 16 without prompts.
    steps:
        Solver steps; the run's by default, as are solver and guidance.
    solver:
        euler, heun, midpoint, unipc2, … (`pathline config list sample.solver`).
    guidance:
        Guidance scale; 1 is no guidance.
    label:
        A class by its index.
    class_grid:
        Every class, n images each, one class a row.
    prompt_file:
        A text file (UTF-8) with one prompt a line; empty lines and those that begin with # are
        left out.
    from_cache:
        The name of a picture in the run's cache: sampled from its cached caption, without the text
        encoder. May be repeated.
    negative:
        A prompt for the negative branch of guidance, instead of the empty one.
    size:
        HEIGHTxWIDTH in pixels; the backbones dit and ddt sample their training size only.
    init:
        An image to start from, cropped and scaled to the size.
    strength:
        How much of --init is sampled again: above 0 and up to 1.
    seed:
        Seed of the first image; image i uses seed + i, independent of batch size.
    trajectory:
        Also write the states from noise to image, as a strip and a GIF.
    out:
        Folder for the images; by default RUN/pictures.
    ema:
        Which average of the weights: its decay, 0 for the weights themselves, or a file that
        `pathline ema` wrote.
    weak:
        A smaller or less trained run, the weaker network of guidance=autoguidance.
    device:
        auto, cpu, cuda, cuda:1, mps.
    debug:
        Show tracebacks.
    """
    del debug  # read by the command line
    say = say_on(open_console())
    settings, texts = split_words(prompts)
    full_keys(settings, OPTIONS)
    if out and out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give the folder that images are written to.")
    opened = _open(run, say)
    _refuse_unquoted(opened, texts, ["generate", str(run), *prompts])
    flags = {"steps": steps, "solver": solver, "guidance.scale": guidance}
    sample = sampling_settings(opened, settings, flags)
    chosen = pick_device(device)
    weights_of = ema if ema is not None else sample.ema
    parts, weights = parts_of(opened, ema=weights_of, device=chosen)

    request = prepare_request(
        opened,
        parts,
        sample,
        prompts=PromptFlags(texts, prompt_file, from_cache, label, class_grid, n),
        inputs=InputFlags(negative, size, init, strength),
        seed=seed,
        weak=_load_weak(weak, chosen, say),
        weights=weights,
        warn=lambda text: say(f"warning: {text}"),
    )
    folder = out or opened.folder / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    rows = len(parts.facts.names) if class_grid else 0
    files = write_images(request, folder, sheet_rows=rows, trajectory=trajectory)
    count = len(request.items)
    say(f"{count} image{'s' * (count != 1)} with {weights}: {folder}")
    say(f"look at {files[-1]}")
    return 0


def _open(run: Path, say: Say) -> runs.Opened:
    return runs.open_run(run, lambda text: say(f"warning: {text}"))


def _load_weak(weak: Path | None, device: torch.device, say: Say) -> Parts | None:
    if weak is None:
        return None
    return parts_of(_open(weak, say), ema=None, device=device)[0]


def _refuse_unquoted(opened: runs.Opened, texts: Sequence[str], call: Sequence[str]) -> None:
    """Raises ValueError for several prompts of one word each: one prompt without its quotes.

    Several classes are fine. call: the words of the command, where it was not typed in a shell.
    """
    if len(texts) < 2 or any(" " in text for text in texts):
        return
    names = {name.lower() for name in opened.facts.names}
    is_classes = reads_of(opened.run.text.name) == "labels"
    if is_classes and all(text.lower() in names or text.isdecimal() for text in texts):
        return
    typed = sys.argv[1:] if all(text in sys.argv for text in texts) else call
    raise ValueError(
        f"{', '.join(texts)} are {len(texts)} prompts of one word each. If they are one prompt, "
        f"write it in quotes: {command_line(*_quoted(typed, texts))}\nIf they are {len(texts)} "
        "prompts, write them as lines of a file and give it as --prompt-file FILE."
    )


def _quoted(typed: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The words of a command line with `texts` as one word in the place of the first."""
    words, left = [], list(texts)
    for word in typed:
        if not left or word.strip() != left[0]:
            words.append(word)
            continue
        if len(left) == len(texts):
            words.append(" ".join(texts))
        left.pop(0)
    return words
