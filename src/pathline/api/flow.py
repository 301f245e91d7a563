"""A trained flow in a program: `load` a run, `generate` PIL images, `stream` them as they form."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL.Image import Image

from pathline.api.arguments import sentences, to_path, to_words, warn
from pathline.config.layers import to_tree
from pathline.config.run import Run
from pathline.data.transforms import from_image
from pathline.generate import Done, Step, decode_images, item_text
from pathline.images import image, sheet
from pathline.parts import Parts
from pathline.runs.folder import Opened, open_run
from pathline.runs.picture_files import SamplingRequest, prepare_request, sample_request
from pathline.runs.prompts import InputFlags, PromptFlags
from pathline.runs.sampling import parts_of, sampling_settings
from pathline.training.device import pick_device
from pathline.training.progress import count_parameters
from pathline.types import Item

Prompts = str | int | Sequence[str | int | None] | None


class Images(list[Image]):
    """A list of PIL images, which a notebook shows as one sheet."""

    def __init__(self, images: Sequence[Image] = (), titles: Sequence[str] = ()):
        super().__init__(images)
        self.titles = tuple(titles)  # prompts or class names

    def sheet(self, *, columns: int | None = None) -> Image:
        """All images on one page, each with its title. columns: None is about square."""
        with sentences("generate"):
            if not self:
                raise ValueError("The sheet is empty because there is no image. Generate some.")
            titles = self.titles if any(self.titles) and len(self.titles) == len(self) else ()
            return sheet(torch.stack(list(map(from_image, self))), titles, columns=columns)

    def _repr_png_(self) -> bytes | None:
        if not self:
            return None
        file = BytesIO()
        self.sheet().save(file, "PNG")
        return file.getvalue()


class Preview(NamedTuple):
    """Images while they are sampled: the clean images that the network predicts from one state."""

    step: int  # 0 at the noise, one more after each solver step
    t: float  # 0 noise … 1 the finished images
    images: Images
    rows: range  # which of all images these are; batches come one after another


@dataclass(frozen=True, eq=False, repr=False)
class Flow:
    """A trained flow, ready to sample; `pathline.load` makes it.

    folder and checkpoint: where it was read. classes: their names, for a run trained on labels.
    size: height and width of its images. settings: all settings of its training, as a dictionary.
    """

    opened: Opened[Run]
    parts: Parts
    weights: str  # which of the run's: "EMA 0.999", "weights"
    ema: float | Path | None  # the same as `load` was asked for it

    @property
    def folder(self) -> Path:
        return self.opened.folder

    @property
    def checkpoint(self) -> Path:
        return self.opened.checkpoint

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parts.facts.names

    @property
    def size(self) -> tuple[int, int]:
        return self.parts.facts.height, self.parts.facts.width

    @property
    def settings(self) -> dict[str, Any]:
        return to_tree(self.opened.run)

    def generate(
        self,
        prompts: Prompts = None,
        /,
        *,
        n: int = 1,
        steps: int | None = None,
        solver: str | None = None,
        guidance: float | str | Mapping[str, Any] | None = None,
        negative: str | None = None,
        size: str | tuple[int, int] | None = None,
        init: Image | Path | str | None = None,
        strength: float = 0.6,
        seed: int = 0,
        weak: "Flow | None" = None,
        **settings: Any,
    ) -> Images:
        """Sample images; the same ones, to the bit, as `pathline generate` with the same settings.

        Parameters
        ----------
        prompts:
            A prompt, a class by its name or number, or a list of these; None (also in a list) is
            an unconditional image.
        n:
            Images of each prompt, 1 or more.
        steps:
            Solver steps, 1 or more; the run's by default, as are solver and guidance.
        solver:
            "euler", "heun", "unipc2", … (`pathline config list sample.solver`).
        guidance:
            The guidance scale (1 is no guidance), or a method with its options:
            {"name": "interval", "scale": 3, "low": 0.2}.
        negative:
            A prompt for the negative branch of guidance, instead of the empty one.
        size:
            (height, width) in pixels or "HEIGHTxWIDTH", for backbones that sample other sizes than
            their training size.
        init:
            An image or its file to start from, cropped and scaled to the size.
        strength:
            How much of `init` is sampled again: above 0 and up to 1.
        seed:
            Of the first image; image i uses seed + i, independent of batch size.
        weak:
            A smaller or less trained flow, the weaker network of guidance="autoguidance".
        settings:
            Other settings of sampling: grid="edm", batch=16, **{"guidance.low": 0.2}.

        Raises PathlineError, with the sentence that the command would print, for what cannot be
        sampled: an unknown word, class, solver or setting, a number out of range.
        """
        with sentences("generate"):
            request = _prepare(
                self,
                prompts,
                n=n,
                negative=negative,
                size=size,
                init=init,
                strength=strength,
                seed=seed,
                weak=weak,
                **{"steps": steps, "solver": solver, "guidance": guidance, **settings},
            )
            events = (event for event in sample_request(request) if isinstance(event, Done))
            pictures = {event.row: image(event.pixels) for event in events}
        return Images([pictures[row] for row in sorted(pictures)], _titles(request))

    def stream(self, prompts: Prompts = None, /, **options: Any) -> Iterator[Preview]:
        """Sample images and yield the clean images predicted at every step, the finished ones last.

        Takes the arguments of `generate` and ends in its images; a preview costs no evaluation of
        the network. To cancel, stop iterating. Raises PathlineError at once, as `generate` does.
        """
        with sentences("generate"):
            request = _prepare(self, prompts, **options)
        return _previews(request)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in _facts(self).items())
        return f"Flow({str(self.folder)!r}, {shown})"

    def _repr_html_(self) -> str:
        rows = {"folder": self.folder, **_facts(self)}
        cells = (f"<tr><th>{name}</th><td>{escape(str(v))}</td></tr>" for name, v in rows.items())
        return f"<table>{''.join(cells)}</table>"


def load(run: str | Path, *, ema: float | str | Path | None = None, device: str = "auto") -> Flow:
    """Load a trained flow.

    Parameters
    ----------
    run:
        A run folder (its newest whole checkpoint is used), one of its checkpoints, or "latest".
    ema:
        Which average of the weights: its decay, 0 for the weights themselves, or a file that
        `pathline ema` wrote; by default what the run's own samples were made with.
    device:
        "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises PathlineError for what is no run, has no whole checkpoint or no such average.
    """
    with sentences("generate"):
        opened = open_run(to_path(run), warn)
        chosen = opened.run.sample.ema if ema is None else ema
        chosen = to_path(chosen) if isinstance(chosen, str) else chosen
        parts, weights = parts_of(opened, ema=chosen, device=pick_device(device))
    return Flow(opened, parts, weights, chosen)


def _prepare(
    flow: Flow,
    prompts: Prompts,
    *,
    n: int = 1,
    negative: str | None = None,
    size: str | tuple[int, int] | None = None,
    init: Image | Path | str | None = None,
    strength: float = 0.6,
    seed: int = 0,
    weak: Flow | None = None,
    **settings: Any,
) -> SamplingRequest:
    """What to sample, as the command prepares it from its line."""
    if "ema" in settings:
        raise ValueError(
            "ema is wrong because a loaded flow has one set of weights. Load another: "
            "pathline.load(run, ema=…)."
        )
    size = "x".join(map(str, size)) if isinstance(size, tuple) else size
    init = to_path(init) if isinstance(init, str) else init
    return prepare_request(
        flow.opened,
        flow.parts,
        sampling_settings(flow.opened, to_words(settings)),
        prompts=PromptFlags(_items(prompts), n=n),
        inputs=InputFlags(negative, size, init, strength),
        seed=seed,
        weak=weak.parts if weak else None,
        weights=flow.weights,
        warn=warn,
    )


def _items(prompts: Prompts) -> Sequence[Item]:
    """One prompt or several, numbers of NumPy and torch as plain ones."""
    if prompts is None:
        return ()
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        prompts = [prompts]
    if not prompts:
        raise ValueError(
            "prompts=[] is wrong because it asks for no image. Leave it out to sample without one."
        )
    return [int(item) if isinstance(item, Integral) else item for item in prompts]


def _previews(request: SamplingRequest) -> Iterator[Preview]:
    titles = _titles(request)
    with sentences("generate"):
        for event in sample_request(request):
            if isinstance(event, Step):
                pixels = decode_images(request.parts, event.predict_x1())
                images = Images([image(p) for p in pixels], [titles[row] for row in event.rows])
                yield Preview(event.number, event.t, images, event.rows)


def _titles(request: SamplingRequest) -> list[str]:
    return [item_text(request.parts, item) for item in request.items]


def _facts(flow: Flow) -> dict[str, Any]:
    """What a person wants to see of a flow."""
    height, width = flow.size
    facts = {
        "checkpoint": flow.checkpoint.name,
        "weights": flow.weights,
        "size": f"{height}x{width}",
        "parameters": count_parameters(flow.parts.network),
    }
    return facts | ({"classes": len(flow.classes)} if flow.classes else {})
