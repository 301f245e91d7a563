"""KL autoencoders of diffusers: Stable Diffusion, SDXL, FLUX.1, FLUX.2, Qwen-Image."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pathline.codecs.diffusers_folder import identify, load_codec, read_config
from pathline.codecs.pretrained import Description, check_fp16, pretrained_codec, unless_default
from pathline.codecs.single_file import infer_config, read_weights
from pathline.dtypes import Dtype
from pathline.ranges import Mean, PositiveFloat
from pathline.types import Codec, Facts

Config = Mapping[str, Any]


class Kind(NamedTuple):
    """How one class of diffusers is used."""

    size: Callable[[Config], tuple[int, int]]  # (channels of raw, factor)
    constants: Callable[[Config, float | None, float | None], tuple[Any, Any]]  # (mean, std)
    encode: Callable[[Any, Tensor], Tensor]  # the posterior's mean
    decode: Callable[[Any, Tensor], Tensor]


def kl(
    facts: Facts,
    *,
    path: str = "stabilityai/sd-vae-ft-mse",
    dtype: Dtype = "fp32",
    scale: PositiveFloat | None = None,
    shift: Mean | None = None,
    padding: Literal["zeros", "reflect"] = "zeros",
    tiles: bool = False,
) -> Codec:
    """A KL-VAE of diffusers (SD, SDXL, EQ-SDXL, SD3, FLUX.1, FLUX.2, Qwen-Image); raw is its mean.

    path: a folder or hub name (owner/name/vae for one inside a pipeline), or one .safetensors file.
    scale, shift: x1 = (raw − shift)·scale, where config.json does not have them or is missing.
    padding: reflect for EQ-VAEs that were tuned with it. tiles: encode large images in tiles.
    """
    # A single file of weights, or a diffusers folder with config.json.
    file = Path(path).expanduser()
    if file.is_file():
        config, files, load = infer_config(file), [file], partial(_load_single, file)
    else:
        config, files = read_config(path, "kl")
        load = partial(load_codec, config["_class_name"], path)
    class_name = config["_class_name"]
    kind = KINDS[class_name]
    # Activations of SD and SDXL overflow in fp16 unless config.json says otherwise.
    check_fp16(dtype, class_name == "AutoencoderKL" and config.get("force_upcast", True))
    # Settings that change latents are part of the id.
    settings = unless_default(
        dtype=(dtype, "fp32"), padding=(padding, "zeros"), tiles=(tiles, False)
    )
    description = Description(
        identify("kl", path, files, **settings),
        *kind.size(config),
        *kind.constants(config, scale, shift),
    )
    prepare = partial(_prepare, load, padding=padding, tiles=tiles)
    functions = {"encode": kind.encode, "decode": kind.decode}
    return pretrained_codec(facts, description, prepare, **functions, dtype=dtype)


def read_constants(
    config: Config, scale: float | None, shift: float | None, default: float | None = None
) -> tuple[Any, Any]:
    """(mean, std) of raw, from config.json's scaling_factor, shift_factor, latents_mean and _std.

    x1 = (raw − shift)·scale, or (raw − latents_mean)·scale / latents_std, as diffusers' pipelines
    do. Raises ValueError where the scale is unknown: a guess would be wrong in silence.
    """
    scale = scale if scale is not None else config.get("scaling_factor", default)
    if scale is None:
        raise ValueError(
            "codec.scale is missing because config.json has no scaling_factor. Set codec.scale "
            "(0.18215 for Stable Diffusion 1 and 2, 0.13025 for SDXL and EQ-SDXL; with "
            "codec.shift: 1.5305 and 0.0609 for SD3, 0.3611 and 0.1159 for FLUX.1)."
        )
    if not scale > 0:
        raise ValueError(f"codec.scale={scale} is wrong because a scale is above 0.")
    # Normalisation per channel where the config has it, else one shift and scale.
    mean, std = config.get("latents_mean"), config.get("latents_std")
    shift = shift if shift is not None else config.get("shift_factor") or 0.0
    if (mean is None) != (std is None) or (mean is not None and shift):
        raise ValueError(
            "config.json has latents_mean without latents_std, or both and a shift_factor, so that "
            "it is unclear what normalises these latents. Correct config.json."
        )
    return (shift if mean is None else mean), ([s / scale for s in std] if std else 1 / scale)


def _kl_size(config: Config) -> tuple[int, int]:
    return config.get("latent_channels", 4), 2 ** (len(config["block_out_channels"]) - 1)


def _kl_constants(config: Config, scale: float | None, shift: float | None) -> tuple[Any, Any]:
    """The class's own default, 0.18215, holds for the four channels of Stable Diffusion alone."""
    is_old = config.get("latent_channels", 4) == 4 and not config.get("single")
    return read_constants(config, scale, shift, default=0.18215 if is_old else None)


def _kl_encode(network: Any, x: Tensor) -> Tensor:
    return network.encode(x).latent_dist.mode()


def _kl_decode(network: Any, raw: Tensor) -> Tensor:
    return network.decode(raw.to(network.dtype)).sample


def _flux2_size(config: Config) -> tuple[int, int]:
    patch = config.get("patch_size", (2, 2))
    factor = 2 ** (len(config.get("block_out_channels", range(4))) - 1)
    return config.get("latent_channels", 32) * math.prod(patch), factor * patch[0]


def _flux2_constants(_: Config, scale: float | None, shift: float | None) -> tuple[Any, Any]:
    """FLUX.2 normalises inside, by the batch norm in its weights."""
    _check_no_constants(scale, shift, "FLUX.2 has a batch norm for this")
    return 0.0, 1.0


def _flux2_encode(network: Any, x: Tensor) -> Tensor:
    """Patches of 2×2 in the order (c, row, column), then the batch norm (flux2:autoencoder.py)."""
    z = F.pixel_unshuffle(_kl_encode(network, x).float(), network.config.patch_size[0])
    mean, std = (s.to(z.device) for s in network.norm)
    return (z - mean) / std


def _flux2_decode(network: Any, raw: Tensor) -> Tensor:
    mean, std = (s.to(raw.device) for s in network.norm)
    return _kl_decode(network, F.pixel_shuffle(raw * std + mean, network.config.patch_size[0]))


def _qwen_size(config: Config) -> tuple[int, int]:
    return config.get("z_dim", 16), 2 ** len(config.get("temperal_downsample", range(3)))


def _qwen_constants(config: Config, scale: float | None, shift: float | None) -> tuple[Any, Any]:
    _check_no_constants(scale, shift, "Qwen-Image has latents_mean and latents_std")
    return read_constants(config, 1.0, None)


def _qwen_encode(network: Any, x: Tensor) -> Tensor:
    """An image is a video of one frame."""
    return _kl_encode(network, x.unsqueeze(2)).squeeze(2)


def _qwen_decode(network: Any, raw: Tensor) -> Tensor:
    return _kl_decode(network, raw.unsqueeze(2)).squeeze(2)


def _check_no_constants(scale: float | None, shift: float | None, why: str) -> None:
    if scale is not None or shift is not None:
        raise ValueError(f"codec.scale and codec.shift are wrong because {why}. Leave them out.")


def _load_single(file: Path) -> nn.Module:
    return read_weights(file, infer_config(file))


def _prepare(load: Callable[[], nn.Module], *, padding: str, tiles: bool) -> nn.Module:
    network: Any = load()
    if hasattr(network, "bn"):  # outside of the network, as bf16 would round them
        var = network.bn.running_var + network.config.batch_norm_eps
        network.norm = [s.float().view(-1, 1, 1) for s in (network.bn.running_mean, var.sqrt())]
    # Weights tuned with reflection give other latents with zeros, and no file records it.
    if padding == "reflect":
        for part in network.modules():
            if isinstance(part, nn.Conv2d) and max(_pair(part.padding)) > 0:
                part.padding_mode = "reflect"
    if tiles:
        network.enable_tiling()
    return network


def _pair(padding: Any) -> tuple[int, ...]:
    return padding if isinstance(padding, tuple) else (0,)


KINDS = {
    "AutoencoderKL": Kind(_kl_size, _kl_constants, _kl_encode, _kl_decode),
    "AutoencoderKLFlux2": Kind(_flux2_size, _flux2_constants, _flux2_encode, _flux2_decode),
    "AutoencoderKLQwenImage": Kind(_qwen_size, _qwen_constants, _qwen_encode, _qwen_decode),
}
