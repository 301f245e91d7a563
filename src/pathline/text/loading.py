"""Models of transformers that read text: which part of each reads it, and how that is loaded."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from pathline import hub
from pathline.dtypes import Dtype
from pathline.types import DTYPES

Pooled = Literal["none", "mean", "own"]


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
    name = hub.located(path)
    whole = hub.read("AutoConfig", name)
    kind = KINDS.get(whole.model_type, Kind())
    config = hub.inner(whole, kind.config)
    projection = getattr(whole, "projection_dim", 0) or 0
    return Found(name, kind, whole.model_type, config, hub.digest_of(name), projection)


def load(found: Found, dtype: Dtype, projected: bool = False) -> nn.Module:
    """The text encoder alone, frozen, in evaluation mode. ValueError unless every weight is read.

    Encoder classes that would load random weights from a whole model's file
    (huggingface/transformers#43559) are not used: the whole is loaded, the part is taken.
    """
    door, given = found.kind.door, dict(found.kind.given)
    if projected:
        door, found.config.projection_dim = door + "WithProjection", found.projection
        given["config"] = found.config
    with hub.quiet():
        read = partial(hub.read, door, found.name, output_loading_info=True, **given)
        model, told = read(dtype=DTYPES[dtype])
    hub.refuse_gaps(found.name, told)
    module = hub.inner(model, found.kind.part)
    module.config.use_cache = False  # one pass, no generation
    return module.eval().requires_grad_(False)


def load_tokenizer(found: Found) -> Any:
    """The tokenizer that lies beside a model.

    Where its files are missing, transformers makes one up that knows a handful of tokens; so it
    must know half of the words that the model has vectors for. Raises ValueError.
    """
    here = Path(found.name).is_dir() or hub.cached(found.name, "tokenizer_config.json")
    tokenizer = hub.read("AutoTokenizer", found.name, local=bool(here))
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
