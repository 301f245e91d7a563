"""Text encoders of transformers: which part of each model reads text, and how it is loaded."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from pathline import hub
from pathline.dtypes import Dtype
from pathline.weights import DTYPES, submodule


class Family(NamedTuple):
    """How a family of models is loaded and which part of it reads text."""

    model_class: str = "AutoModel"  # of transformers
    part: str = ""  # the text encoder in the loaded model, a dotted path
    config: str = ""  # its settings in the model's
    options: Mapping[str, Any] = {}
    has_pooled: bool = False  # a pooled vector of its own
    is_padded: bool = False  # always reads its full length, padding too, and lower case only


class Encoder(NamedTuple):
    """An encoder whose weights need not be loaded yet."""

    location: hub.Location
    family: Family
    model_type: str
    config: Any  # of the text encoder
    version: str  # commit, or a digest of the folder
    projection: int  # width of the space shared by images and texts; 0: none


def find_encoder(path: str) -> Encoder:
    """The encoder of that name, folder or package:NAME/FOLDER; reads its config.json only.

    Raises FileNotFoundError, with the way to fetch it, where it cannot be had.
    """
    location = hub.locate(path, hub.TEXT)
    config = hub.read("AutoConfig", location, hub.TEXT)
    family = FAMILIES.get(config.model_type, Family())
    inner = submodule(config, family.config)
    projection = getattr(config, "projection_dim", 0) or 0
    version = hub.version_of(location)
    return Encoder(location, family, config.model_type, inner, version, projection)


def load_encoder(encoder: Encoder, dtype: Dtype, projected: bool = False) -> nn.Module:
    """The text encoder alone, frozen, in evaluation mode. ValueError unless every weight is read.

    Encoder classes that would load random weights from a whole model's file
    (huggingface/transformers#43559) are not used: the whole is loaded, the part is taken.
    """
    model_class, options = encoder.family.model_class, dict(encoder.family.options)
    if projected:
        model_class += "WithProjection"
        encoder.config.projection_dim = encoder.projection
        options["config"] = encoder.config
    part, options["dtype"] = encoder.family.part, DTYPES[dtype]
    model = hub.load_model(model_class, encoder.location, hub.TEXT, part=part, **options)
    model.config.use_cache = False  # one pass, no generation
    return model


def load_tokenizer(encoder: Encoder) -> Any:
    """The tokenizer of a model.

    Where its files are missing, transformers makes one up of a handful of tokens; so it must have
    half of the tokens that the model has vectors for. Raises ValueError.
    """
    is_local = hub.cached_file(encoder.location, "tokenizer_config.json") is not None
    tokenizer = hub.read("AutoTokenizer", encoder.location, hub.TEXT, local=is_local)
    if len(tokenizer) * 2 < encoder.config.vocab_size:
        raise ValueError(
            f"text.path={encoder.location} is wrong because its tokenizer has {len(tokenizer)} "
            f"tokens and its model {encoder.config.vocab_size}: its files are missing. Fetch "
            "tokenizer.json, or a .model file with tokenizer_config.json, into the same folder."
        )
    return tokenizer


def identify(encoder: Encoder) -> str:
    """An encoder's part of the id of what it encodes: where a folder is does not matter."""
    location = encoder.location
    title = location.title if isinstance(location, hub.Repository) else encoder.model_type
    return f"{title}@{encoder.version}"


CLIP = Family("CLIPTextModel", config="text_config", has_pooled=True)
SIGLIP = Family("SiglipTextModel", config="text_config", has_pooled=True, is_padded=True)
MULTIMODAL = Family(part="language_model", config="text_config")
FAMILIES = {
    "t5": Family("T5EncoderModel"),
    "mt5": Family("MT5EncoderModel"),
    "umt5": Family("UMT5EncoderModel"),
    "t5gemma": Family(
        "T5GemmaEncoderModel", "encoder", "encoder", options={"is_encoder_decoder": False}
    ),
    "t5gemma2": Family("T5Gemma2Model", "encoder.text_model", "encoder.text_config"),
    "clip": CLIP,
    "clip_text_model": CLIP,
    "siglip": SIGLIP,  # also SigLIP 2 of one resolution
    "siglip_text_model": SIGLIP,
    "siglip2": SIGLIP._replace(model_class="Siglip2TextModel"),
    "siglip2_text_model": SIGLIP._replace(model_class="Siglip2TextModel"),
    "gemma3": MULTIMODAL,
    "mistral3": MULTIMODAL,
    "qwen2_5_vl": MULTIMODAL,
    "qwen3_vl": MULTIMODAL,
}
