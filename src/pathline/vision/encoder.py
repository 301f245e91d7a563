"""Frozen vision encoders of transformers: the tokens of an image's patches, on their grid."""

import inspect
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pathline import hub
from pathline.deferred import load_on_use
from pathline.dtypes import TORCH_NAMES, Dtype
from pathline.ranges import Layer, Positive
from pathline.types import Vision
from pathline.weights import DTYPES, submodule

DEFAULT_SIZE = 224  # pixels along a side
PROCESSOR = "preprocessor_config.json"  # has mean and std of the pixels


class Family(NamedTuple):
    """How a family of models is loaded and takes its pixels."""

    model_class: str = "AutoModel"  # of transformers
    config: str = ""  # the vision encoder's settings in the model's
    is_packed: bool = False  # takes a list of patches, and the number of rows and columns
    is_masked: bool = False  # hides patches and shuffles the others, unless switched off


class Encoder(NamedTuple):
    """An encoder whose weights need not be loaded yet."""

    location: hub.Location
    family: Family
    config: Any  # of the vision encoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    id: str


class Reading(NamedTuple):
    """How images are shown to the encoder and which of its states are taken."""

    size: int
    layer: int | None
    dtype: Dtype


def none() -> Vision:
    """No encoder: nothing is aligned."""

    def encode(_: Tensor) -> Tensor:
        raise ValueError("vision=none has no features. Set vision=encoder.")

    return Vision(encode)


def encoder(
    *, path: str, size: Positive | None = None, layer: Layer | None = None, dtype: Dtype = "fp32"
) -> Vision:
    """Patch tokens of a vision encoder of transformers: DINOv2, DINOv3, SigLIP 2, CLIP, ViT …

    path: a folder, or a name on the hub such as facebook/dinov2-base. size: pixels along a side of
    the square that it gets, a multiple of its patch; other shapes get as many. null: 224, or its
    training size where that is less. layer: of hidden_states, 0 the embedding, -1 the last; null:
    the model's output, normed where it does that. Raises ValueError for what doesn't fit, and
    FileNotFoundError, with the way to fetch it, where it is missing.
    """
    source = _find(path)
    size = _default_size(source.config) if size is None else size
    reading = Reading(size, layer, dtype)
    _check_settings(source, reading)
    device = [torch.device("cpu")]
    model, move = load_on_use(partial(_load, source, dtype))

    def to(place: torch.device) -> None:
        device[0] = place
        move(place)

    def encode(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b e i j"]:
        x = _preprocess(pixels.to(device[0]), source, size)
        # Without autocast: features must not depend on the precision of a training.
        with torch.no_grad(), torch.autocast(device[0].type, enabled=False):
            return _patch_features(model(), source, reading, x)

    settings = [f"size={size}", *([] if layer is None else [f"layer={layer}"]), TORCH_NAMES[dtype]]
    id = " ".join(["encoder", source.id, *settings])
    tokens = (size // source.config.patch_size) ** 2
    return Vision(encode, source.config.hidden_size, tokens, id, to)


def _find(path: str) -> Encoder:
    """Reads config.json and the processor's mean and std only."""
    location = hub.locate(path, hub.VISION)
    whole = hub.read("AutoConfig", location, hub.VISION)
    family = FAMILIES.get(whole.model_type, Family())
    config = submodule(whole, family.config)
    sizes = (getattr(config, setting, None) for setting in ("hidden_size", "patch_size"))
    # Hierarchical models merge patches, and have `depths`.
    if hasattr(config, "depths") or not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"vision.path={path} is wrong because a {whole.model_type!r} model does not have one "
            "token for each patch. Take an encoder that has, such as DINOv2, DINOv3, SigLIP 2, ViT."
        )
    file = hub.find_file(location, PROCESSOR, hub.VISION)
    try:
        settings = json.loads(file.read_text("utf-8"))
        mean, std = (tuple(map(float, settings[key])) for key in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} has no image_mean and image_std: {error!r}.") from error
    title = location.title if isinstance(location, hub.Repository) else whole.model_type
    return Encoder(location, family, config, mean, std, f"{title}@{hub.version_of(location)}")


def _default_size(config: Any) -> int:
    """REPA's 224 pixels, fewer for a smaller encoder, in whole patches."""
    trained_size = getattr(config, "image_size", DEFAULT_SIZE)
    size = min(DEFAULT_SIZE, trained_size) if isinstance(trained_size, int) else DEFAULT_SIZE
    return max(1, size // config.patch_size) * config.patch_size


def _check_settings(source: Encoder, reading: Reading) -> None:
    patch, layers = source.config.patch_size, source.config.num_hidden_layers
    if reading.size < patch or reading.size % patch:
        raise ValueError(
            f"vision.size={reading.size} is wrong because {source.location} has patches of {patch} "
            f"pixels. Take a multiple, such as {max(1, reading.size // patch) * patch}."
        )
    if reading.layer is not None and not -layers - 1 <= reading.layer <= layers:
        raise ValueError(
            f"vision.layer={reading.layer} is wrong because {source.location} has {layers} layers. "
            f"Take 0 … {layers}, or -1 … {-layers - 1} from the end."
        )


def _load(source: Encoder, dtype: Dtype) -> nn.Module:
    """The encoder, frozen, in evaluation mode. ValueError unless every weight is read."""
    model = hub.load_model(
        source.family.model_class, source.location, hub.VISION, dtype=DTYPES[dtype]
    )
    if source.family.is_masked:
        model.config.mask_ratio = 0.0
    return model


def _preprocess(
    pixels: UInt8[Tensor, "b c h w"], source: Encoder, size: int
) -> Float[Tensor, "b 3 height width"]:
    """Images resized and normalised as in the encoder's training; grey ones in three channels."""
    if pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"data.channels={pixels.shape[1]} is wrong because vision encoders take 1 or 3. "
            "Set vision=none."
        )
    sides = _sides(pixels.shape[2], pixels.shape[3], size, source.config.patch_size)
    x = pixels.float()
    if x.shape[2:] != sides:
        # Bicubic overshoots to values that no picture of the encoder's training had.
        x = interpolate(x, sides, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (x.new_tensor(c).view(-1, 1, 1) for c in (source.mean, source.std))
    return (x.expand(-1, 3, -1, -1) / 255 - mean) / std


def _sides(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Height and width of about size² pixels in this shape, both multiples of the patch."""
    stretch = (height / width) ** 0.5
    rows, columns = (max(1, round(size * s / patch)) for s in (stretch, 1 / stretch))
    return rows * patch, columns * patch


def _patch_features(
    model: Any, source: Encoder, reading: Reading, x: Tensor
) -> Float[Tensor, "b e i j"]:
    """The patches' tokens on their grid; class and register tokens, which come first, are cut."""
    patch, family = source.config.patch_size, source.family
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    x = x.to(DTYPES[reading.dtype])

    # each family takes its pixels in its own form
    inputs: dict[str, Any] = _pack(x, patch, rows, columns) if family.is_packed else {}
    if not family.is_packed:
        inputs["pixel_values"] = x
    if family.is_masked:
        inputs["noise"] = torch.arange(rows * columns, device=x.device).expand(len(x), -1)
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        inputs["interpolate_pos_encoding"] = True
    out = model(**inputs, output_hidden_states=reading.layer is not None)

    # what is more than one token a patch comes before them; anything else is no such grid
    is_last = reading.layer is None
    tokens = out.last_hidden_state if is_last else out.hidden_states[reading.layer]
    extra = tokens.shape[1] - rows * columns if tokens.dim() == 3 else -1
    if not 0 <= extra <= 1 + getattr(source.config, "num_register_tokens", 0):
        raise ValueError(
            f"vision.path={source.location} is wrong because it has {tuple(tokens.shape)} states "
            f"for {rows}x{columns} patches. Take an encoder that keeps its patches, such as DINOv2."
        )
    grid = tokens[:, extra:].float().unflatten(1, (rows, columns))
    return grid.permute(0, 3, 1, 2).contiguous()


def _pack(x: Tensor, patch: int, rows: int, columns: int) -> dict[str, Tensor]:
    """The inputs of SigLIP 2 of any resolution: flat patches, channels last."""
    b = len(x)
    flat = x.view(b, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    mask = torch.ones(b, rows * columns, dtype=torch.int64, device=x.device)
    sides: Sequence[Sequence[int]] = [[rows, columns]] * b
    shapes = torch.tensor(sides, device=x.device)
    patches = flat.reshape(b, rows * columns, -1)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


CLIP = Family("CLIPVisionModel", "vision_config")
SIGLIP = Family("SiglipVisionModel", "vision_config")  # also SigLIP 2 of one resolution
SIGLIP2 = Family("Siglip2VisionModel", "vision_config", is_packed=True)
FAMILIES = {
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    "siglip2": SIGLIP2,
    "siglip2_vision_model": SIGLIP2,
    "vit_mae": Family(is_masked=True),
}
