"""Frozen vision encoders of transformers: the tokens of a picture's patches, on their grid."""

import inspect
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pathline import hub
from pathline.dtypes import TORCH_NAMES, Dtype
from pathline.types import DTYPES, Vision

USUAL = 224  # pixels along a side
PROCESSOR = "preprocessor_config.json"  # has mean and std of the pixels


class Kind(NamedTuple):
    """How a family of models is loaded and its pixels are handed over."""

    door: str = "AutoModel"  # class of transformers
    config: str = ""  # the vision encoder's settings in the model's
    packed: bool = False  # takes a list of patches, and how many rows and columns they make
    masks: bool = False  # hides patches and mixes the others, unless it is told not to


class Found(NamedTuple):
    """An encoder whose weights need not be loaded yet."""

    name: str  # folder, or name on the hub
    kind: Kind
    config: Any  # of the vision encoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    id: str


class Manner(NamedTuple):
    """How pictures are shown to it and what is read."""

    size: int
    layer: int | None
    dtype: Dtype


def none() -> Vision:
    """No encoder: nothing is aligned."""

    def encode(_: Tensor) -> Tensor:
        raise ValueError("vision=none encodes nothing; take vision=encoder.")

    return Vision(encode)


def encoder(
    *, path: str, size: int | None = None, layer: int | None = None, dtype: Dtype = "fp32"
) -> Vision:
    """Patch tokens of a vision encoder of transformers: DINOv2, DINOv3, SigLIP 2, CLIP, ViT …

    path: a folder, or a name on the hub such as facebook/dinov2-base. size: pixels along a side of
    the square it sees, a multiple of its patch; other shapes get as many. null: 224, or what it was
    made for where that is less. layer: of hidden_states, 0 the embedding, -1 the last; null: what
    the model gives, normed where it does that. Raises ValueError for what doesn't fit,
    FileNotFoundError, saying how to fetch it, where it isn't.
    """
    found = _find(path)
    size = _usual(found.config) if size is None else size
    manner = Manner(size, layer, dtype)
    _refuse(found, manner)
    where = [torch.device("cpu")]

    @cache
    def loaded() -> nn.Module:
        return _load(found, dtype)

    def to(place: torch.device) -> None:
        where[0] = place

    def encode(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b e i j"]:
        module = loaded().to(where[0])
        with torch.no_grad(), torch.autocast(where[0].type, enabled=False):
            return _seen(module, found, manner, _shown(pixels.to(where[0]), found, size))

    said = [f"size={size}", *([] if layer is None else [f"layer={layer}"]), TORCH_NAMES[dtype]]
    name = " ".join(["encoder", found.id, *said])
    tokens = (size // found.config.patch_size) ** 2
    return Vision(encode, found.config.hidden_size, tokens, name, to)


def _find(path: str) -> Found:
    """Reads config.json and the processor's mean and std alone."""
    name = hub.located(path, hub.VISION)
    whole = hub.read("AutoConfig", name, hub.VISION)
    kind = KINDS.get(whole.model_type, Kind())
    config = hub.inner(whole, kind.config)
    sizes = (getattr(config, setting, None) for setting in ("hidden_size", "patch_size"))
    if hasattr(config, "depths") or not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"{path} is a {whole.model_type!r} model, which does not keep one token for each patch "
            "of a picture: want an encoder that does, such as DINOv2, DINOv3, SigLIP 2 or ViT."
        )
    file = hub.file_of(name, PROCESSOR, hub.VISION)
    try:
        told = json.loads(file.read_text("utf-8"))
        mean, std = (tuple(map(float, told[key])) for key in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} tells no image_mean and image_std: {error!r}.") from error
    title = whole.model_type if Path(name).is_dir() else name
    return Found(name, kind, config, mean, std, f"{title}@{hub.digest_of(name)}")


def _usual(config: Any) -> int:
    """REPA's 224 pixels, less for a smaller encoder, in whole patches."""
    made_for = getattr(config, "image_size", USUAL)
    size = min(USUAL, made_for) if isinstance(made_for, int) else USUAL
    return max(1, size // config.patch_size) * config.patch_size


def _refuse(found: Found, manner: Manner) -> None:
    patch, layers = found.config.patch_size, found.config.num_hidden_layers
    if manner.size < patch or manner.size % patch:
        raise ValueError(
            f"vision.size={manner.size} does not divide into the patches of {patch} pixels of "
            f"{found.name}; near: {max(1, manner.size // patch) * patch}."
        )
    if manner.layer is not None and not -layers - 1 <= manner.layer <= layers:
        raise ValueError(
            f"vision.layer={manner.layer} is no hidden state of {found.name}: it has {layers} "
            f"layers, so 0 … {layers}, or -1 … {-layers - 1} from the end."
        )


def _load(found: Found, dtype: Dtype) -> nn.Module:
    """The encoder, frozen, in evaluation mode. ValueError unless every weight is read."""
    with hub.quiet():
        module, told = hub.read(
            found.kind.door,
            found.name,
            hub.VISION,
            output_loading_info=True,
            dtype=DTYPES[dtype],
        )
    hub.refuse_gaps(found.name, told)
    if found.kind.masks:
        module.config.mask_ratio = 0.0
    return module.eval().requires_grad_(False)


def _shown(
    pixels: UInt8[Tensor, "b c h w"], found: Found, size: int
) -> Float[Tensor, "b 3 height width"]:
    """Pictures as the encoder was trained to see them; grey ones in three channels."""
    if pixels.shape[1] not in (1, 3):
        raise ValueError(f"Pictures of {pixels.shape[1]} channels came; encoders see 1 or 3.")
    sides = _sides(pixels.shape[2], pixels.shape[3], size, found.config.patch_size)
    x = pixels.float()
    if x.shape[2:] != sides:
        x = interpolate(x, sides, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (x.new_tensor(c).view(-1, 1, 1) for c in (found.mean, found.std))
    return (x.expand(-1, 3, -1, -1) / 255 - mean) / std


def _sides(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """Height and width of about size² pixels in this shape, both multiples of the patch."""
    stretch = (height / width) ** 0.5
    rows, columns = (max(1, round(size * s / patch)) for s in (stretch, 1 / stretch))
    return rows * patch, columns * patch


def _seen(module: Any, found: Found, manner: Manner, x: Tensor) -> Float[Tensor, "b e i j"]:
    """The patches' tokens on their grid; class and register tokens, which come first, go."""
    patch = found.config.patch_size
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    x = x.to(DTYPES[manner.dtype])
    given: dict[str, Any] = _packed(x, patch, rows, columns) if found.kind.packed else {}
    if not found.kind.packed:
        given["pixel_values"] = x
    if found.kind.masks:
        given["noise"] = torch.arange(rows * columns, device=x.device).expand(len(x), -1)
    if "interpolate_pos_encoding" in inspect.signature(module.forward).parameters:
        given["interpolate_pos_encoding"] = True
    out = module(**given, output_hidden_states=manner.layer is not None)
    last = manner.layer is None
    tokens = out.last_hidden_state if last else out.hidden_states[manner.layer]
    extra = tokens.shape[1] - rows * columns if tokens.dim() == 3 else -1
    if not 0 <= extra <= 1 + getattr(found.config, "num_register_tokens", 0):
        raise ValueError(
            f"{found.name} answers {rows}x{columns} patches with {tuple(tokens.shape)}: no token "
            "for each patch. Take an encoder that keeps its patches, such as DINOv2."
        )
    grid = tokens[:, extra:].float().unflatten(1, (rows, columns))
    return grid.permute(0, 3, 1, 2).contiguous()


def _packed(x: Tensor, patch: int, rows: int, columns: int) -> dict[str, Tensor]:
    """As SigLIP 2 of any resolution takes it: flat patches, channels last."""
    b = len(x)
    flat = x.view(b, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    mask = torch.ones(b, rows * columns, dtype=torch.int64, device=x.device)
    sides: Sequence[Sequence[int]] = [[rows, columns]] * b
    shapes = torch.tensor(sides, device=x.device)
    patches = flat.reshape(b, rows * columns, -1)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


CLIP = Kind("CLIPVisionModel", "vision_config")
SIGLIP = Kind("SiglipVisionModel", "vision_config")  # SigLIP 2 of one resolution calls itself so
SIGLIP2 = Kind("Siglip2VisionModel", "vision_config", packed=True)
KINDS = {
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    "siglip2": SIGLIP2,
    "siglip2_vision_model": SIGLIP2,
    "vit_mae": Kind(masks=True),
}
