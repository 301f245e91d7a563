"""A codec that was trained here, read from its run folder: codec.json and codec.safetensors."""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from pathline.codecs.autoencoder import Autoencoder
from pathline.codecs.kl_small import kl_small
from pathline.codecs.pixel import decode as to_pixels
from pathline.codecs.pixel import encode as from_pixels
from pathline.codecs.vqvae import fsq, vqvae
from pathline.types import Codec, Facts

FILE, WEIGHTS = "codec.json", "codec.safetensors"
SETTINGS = "codec.yaml"  # what a codec's run folder has before its training ends
KEYS = ("network", "options", "pixels", "channels", "factor", "mean", "std", "sha256")


def trained(facts: Facts, *, path: str) -> Codec:
    """A codec of your own. path: the run folder that `pathline codec train` has written."""
    folder = Path(path)
    about = _about(folder)
    if about["pixels"] != facts.channels:
        raise ValueError(
            f"The codec in {folder} was trained on pictures of {about['pixels']} channel(s), these "
            f"have {facts.channels}: set data.channels={about['pixels']}, or take another codec."
        )
    wanted = [torch.device("cpu")]

    @cache
    def loaded() -> Autoencoder:
        return _load(folder, about)

    def to(device: torch.device) -> None:
        wanted[:] = [device]

    @torch.no_grad()
    def encode(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        return loaded().to(wanted[0]).latents(from_pixels(pixels)).float()

    @torch.no_grad()
    def decode(raw: Float[Tensor, "b k h w"]) -> UInt8[Tensor, "b c h2 w2"]:
        return to_pixels(loaded().to(wanted[0]).rebuilt(raw))

    return Codec(
        encode,
        decode,
        torch.tensor(about["mean"]),
        torch.tensor(about["std"]),
        factor=about["factor"],
        channels=about["channels"],
        id=f"trained {about['network']} {about['sha256'][:16]}",
        to=to,
    )


def store(
    folder: Path,
    network: Autoencoder,
    *,
    name: str,
    options: Mapping[str, Any],
    mean: Float[Tensor, " c"],
    std: Float[Tensor, " c"],
    measured: Mapping[str, Any],
) -> None:
    """Write a trained network (a row of NETWORKS with all its options) as a codec, or not at all.

    mean, std: of its raw latents. measured: what else is worth knowing, kept as it is.
    """
    fresh = folder / f".{WEIGHTS}.tmp"
    weights = {
        key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()
    }
    save_file(weights, fresh)
    about = {
        "network": name,
        "options": dict(options),
        "pixels": network.pixels,
        "channels": network.channels,
        "factor": network.factor,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "sha256": _digest(fresh),
        "measured": dict(measured),
    }
    text = folder / f".{FILE}.tmp"
    text.write_text(json.dumps(about, indent=1))
    os.replace(fresh, folder / WEIGHTS)
    os.replace(text, folder / FILE)


def moments(network: Autoencoder, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "3 k"]:
    """Of these pictures' raw latents a channel, in float64: how many numbers, sum, squares."""
    raw = network.latents(pictures).cpu().double().transpose(0, 1).flatten(1)
    count = torch.full((len(raw),), raw.shape[1], dtype=raw.dtype, device=raw.device)
    return torch.stack([count, raw.sum(1), raw.square().sum(1)])


def _about(folder: Path) -> dict[str, Any]:
    """What codec.json says. Raises FileNotFoundError or ValueError, saying what to do."""
    file = folder / FILE
    if not file.is_file():
        unended = (folder / SETTINGS).is_file()
        raise FileNotFoundError(
            f"The codec in {folder} was not trained to its end: "
            f"pathline codec train --resume {folder}"
            if unended
            else f"There is no trained codec in {folder}: it has no {FILE}. codec.path names the "
            "run folder of `pathline codec train`."
        )
    try:
        about = json.loads(file.read_text())
    except json.JSONDecodeError:
        about = {}
    missing = [key for key in KEYS if key not in about]
    if missing or about["network"] not in NETWORKS:
        raise ValueError(
            f"{file} can't be read: {missing[0] if missing else about['network']} is "
            f"{'missing' if missing else 'no network'}. Write it anew by "
            f"pathline codec train --resume {folder}"
        )
    if not all(value > 0 for value in about["std"]):
        raise ValueError(f"A channel of the codec in {folder} is constant: train it further.")
    return about


def _load(folder: Path, about: Mapping[str, Any]) -> Autoencoder:
    file = folder / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{file}, the weights of this codec, is gone.")
    if _digest(file) != about["sha256"]:
        raise ValueError(
            f"{file} is not the file that {FILE} tells of (its digest differs). Write both anew by "
            f"pathline codec train --resume {folder}"
        )
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in about["options"].items()}
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away
        network = NETWORKS[about["network"]](about["pixels"], **lists)
    network.load_state_dict(load_file(file))
    return network.eval().requires_grad_(False)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


NETWORKS = {"kl_small": kl_small, "vqvae": vqvae, "fsq": fsq}
