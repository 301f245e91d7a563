"""The model that captions: any image-text-to-text model of transformers, by name or folder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from pathline.dtypes import Dtype
from pathline.types import DTYPES

FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")  # no pickled weights, no code
PATIENCE = 10  # seconds for the hub's answer
PIECE, PIECES = 1 << 16, 64  # bytes and number of the samples that tell weights apart
FAULTS = (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError)


class Answer(NamedTuple):
    """What a model said. whole: it came to an end before it was cut."""

    text: str
    whole: bool


# (pictures, prompts, seeds, temperature) -> answers; a temperature of 0 takes the likeliest words
Ask = Callable[[Sequence[Image.Image], Sequence[str], Sequence[int], float], list[Answer]]


def load(
    folder: Path,
    *,
    device: torch.device | None = None,
    dtype: Literal["auto", Dtype] = "auto",
    max_new_tokens: int = 512,
) -> Ask:
    """How to ask the model of a folder. Raises ValueError where it is none or has gaps."""
    network = _network(folder, DTYPES.get(dtype, dtype)).to(device or torch.device("cpu"))
    processor = _processor(folder)

    def ask(
        pictures: Sequence[Image.Image],
        prompts: Sequence[str],
        seeds: Sequence[int],
        temperature: float,
    ) -> list[Answer]:
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds] if temperature else []
        noise = partial(_noisy, rngs=rngs, temperature=temperature)
        inputs = _inputs(processor, pictures, prompts).to(network.device, network.dtype)
        return _answers(processor, network, inputs, [noise] if rngs else [], max_new_tokens)

    return ask


def located(model: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder that holds a model, and its revision: the hub's commit, or a digest of it.

    Raises FileNotFoundError, saying how to fetch it, where it is neither on disk nor reachable.
    """
    own = Path(model).expanduser()
    if own.is_dir():
        _refuse_gaps(own)
        return own, digest(own)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise FileNotFoundError(f"there is no folder {model}: {_how_to_fetch('NAME')}")
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise ImportError(_install()) from error
    take = partial(snapshot_download, model, allow_patterns=list(FILES))
    try:
        folder = Path(take(revision=revision, local_files_only=True))
        _refuse_gaps(folder)
    except (OSError, ValueError):
        try:  # the hub's own downloads try for half a minute before they say no; this asks once
            commit = HfApi().model_info(model, revision=revision, timeout=PATIENCE).sha
            folder = Path(take(revision=commit))
        except Exception as error:  # every version of its client has its own kinds
            raise FileNotFoundError(
                f"{model!r} is no folder here, not whole in the hub's cache, and can't be fetched "
                f"({_line(error)}): {_how_to_fetch(model)}"
            ) from error
        _refuse_gaps(folder)
    return folder, folder.name[:12]


def _how_to_fetch(model: str) -> str:
    return (
        f"where there is a network, `hf download {model} --local-dir DIR`; then --model DIR works "
        "offline"
    )


def _install() -> str:
    return "captioning needs transformers: pip install 'pathline[caption]'"


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _refuse_gaps(folder: Path) -> None:
    """ValueError unless settings and every file of weights are there."""
    wanted = {"config.json"}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted |= set(json.loads(index.read_text())["weight_map"].values())
    else:
        wanted.add("model.safetensors")
    gaps = sorted(name for name in wanted if not (folder / name).is_file())
    if gaps:
        raise ValueError(
            f"{folder} holds no whole model, {', '.join(gaps[:3])} is missing: "
            f"{_how_to_fetch('NAME')}"
        )


def digest(folder: Path) -> str:
    """Of settings, templates and words whole, and of samples of the weights."""
    total = hashlib.sha256()
    for file in sorted(file for kind in FILES for file in folder.glob(kind)):
        size = file.stat().st_size
        total.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            weights = file.suffix == ".safetensors" and size > PIECE * PIECES
            for place in range(0, size, size // PIECES if weights else PIECE):
                stream.seek(place)
                total.update(stream.read(PIECE))
    return total.hexdigest()[:12]


def _network(folder: Path, dtype: Any) -> Any:
    """The model, every weight read."""
    network, told = _from(
        "AutoModelForImageTextToText", folder, dtype=dtype, use_safetensors=True,
        output_loading_info=True,
    )  # fmt: skip
    gaps = sorted({*told["missing_keys"], *map(str, told.get("mismatched_keys") or ())})
    if gaps:
        raise ValueError(
            f"{len(gaps)} weights of {folder} are missing or of another shape: "
            f"{', '.join(gaps[:3])}; fetch it again"
        )
    return network.eval().requires_grad_(False)


def _processor(folder: Path) -> Any:
    """The model's processor for still pictures, on Pillow, so that no torchvision is needed.

    transformers lets no processor that knows videos be made without torchvision; a class that
    leaves the videos out can.
    """
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    parts = kind.get_attributes() if kind else []
    if kind is None or not any("video" in part for part in parts):
        processor = _from("AutoProcessor", folder, backend="pil")
    else:
        still = classmethod(lambda _: [part for part in parts if "video" not in part])
        kind = type(kind.__name__, (kind,), {"get_attributes": still})
        processor = _tried(kind.from_pretrained, folder, backend="pil")
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"{folder} has no chat template (chat_template.jinja or .json): it can't be asked in "
            "words; take an instruction-tuned model"
        )
    return processor


def _from(door: str, folder: Path, **given: Any) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(_install()) from error
    return _tried(getattr(transformers, door).from_pretrained, folder, **given)


def _tried(read: Callable[..., Any], folder: Path, **given: Any) -> Any:
    try:
        return read(folder, local_files_only=True, **given)
    except FAULTS as error:
        raise ValueError(
            f"{folder} can't be read as an image-text-to-text model: {_line(error)}"
        ) from error


def _inputs(processor: Any, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    """Pictures and words as the model reads them, padded on the left: answers begin alike."""
    talks = [
        [{"role": "user", "content": [
            {"type": "image", "image": picture}, {"type": "text", "text": prompt}]}]
        for picture, prompt in zip(pictures, prompts, strict=True)
    ]  # fmt: skip
    return processor.apply_chat_template(
        talks,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


@torch.inference_mode()
def _answers(
    processor: Any, network: Any, inputs: Any, noise: list[Any], most: int
) -> list[Answer]:
    """The likeliest words one by one; chance, if any, is in `noise`."""
    plain = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    found = network.generate(**inputs, **plain, max_new_tokens=most, logits_processor=noise)
    said = found[:, inputs["input_ids"].shape[1] :].cpu()
    ends = network.generation_config.eos_token_id
    ends = torch.tensor([] if ends is None else ends).reshape(-1)
    whole = torch.isin(said, ends).any(1).tolist()
    texts = processor.batch_decode(said, skip_special_tokens=True)
    return [Answer(*pair) for pair in zip(texts, whole, strict=True)]


def _noisy(_: Tensor, scores: Tensor, *, rngs: list[torch.Generator], temperature: float) -> Tensor:
    """Scores whose greatest is a draw from softmax(scores / temperature), row by row (Gumbel).

    A row's chance is its own generator's, so that a picture draws the same alone and in a batch.
    """
    drawn = [torch.empty(scores.shape[1]).exponential_(generator=rng) for rng in rngs]
    return scores.float() / temperature - torch.stack(drawn).log().to(scores.device)
