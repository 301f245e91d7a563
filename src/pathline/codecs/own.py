"""A codec trained with pathline, read from its run folder: codec.json and codec.safetensors."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor

from pathline.codecs.autoencoder import Autoencoder
from pathline.codecs.kl_small import kl_small
from pathline.codecs.pixel import decode as to_pixels
from pathline.codecs.pixel import encode as from_pixels
from pathline.codecs.vqvae import fsq, vqvae
from pathline.deferred import load_on_use
from pathline.files import digest, write_whole
from pathline.types import Codec, Facts
from pathline.weights import load_weights, read_tensors

FILE, WEIGHTS = "codec.json", "codec.safetensors"
SETTINGS = "codec.yaml"  # what a codec's run folder has before its training ends
KEYS = ("network", "options", "pixels", "channels", "factor", "mean", "std", "sha256")


def trained(facts: Facts, *, path: str) -> Codec:
    """A codec that you trained. path: the run folder of `pathline codec train`."""
    folder = Path(path)
    about = _read_description(folder)
    if about["pixels"] != facts.channels:
        raise ValueError(
            f"data.channels={facts.channels} is wrong because the codec in {folder} was trained on "
            f"images of {about['pixels']} channel(s). Set data.channels={about['pixels']}, or take "
            "another codec."
        )
    # Read at first use, which a run on a finished cache may never come to.
    network, to = load_on_use(partial(_load, folder, about))

    @torch.no_grad()
    def encode(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k h2 w2"]:
        return network().latents(from_pixels(pixels)).float()

    @torch.no_grad()
    def decode(raw: Float[Tensor, "b k h w"]) -> UInt8[Tensor, "b c h2 w2"]:
        return to_pixels(network().rebuilt(raw))

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
    """Write a trained network (a row of NETWORKS with all its options) as a codec.

    mean, std: of its raw latents. measured: other results to keep, as they are. The weights come
    first: a folder with an old description and new weights is refused by the digest.
    """
    # Weights first: the description's digest is of the file on disk.
    weights = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    write_whole(folder / WEIGHTS, lambda file: save_file(weights, file))
    about = {
        "network": name,
        "options": dict(options),
        "pixels": network.pixels,
        "channels": network.channels,
        "factor": network.factor,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "sha256": digest(folder / WEIGHTS),
        "measured": dict(measured),
    }
    write_whole(folder / FILE, json.dumps(about, indent=1))


def moments(network: Autoencoder, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "3 k"]:
    """Count, sum and sum of squares per channel of the raw latents of images, in float64."""
    raw = network.latents(pixels).cpu().double().transpose(0, 1).flatten(1)
    count = torch.full((len(raw),), raw.shape[1], dtype=raw.dtype, device=raw.device)
    return torch.stack([count, raw.sum(1), raw.square().sum(1)])


def _read_description(folder: Path) -> dict[str, Any]:
    """codec.json. Raises FileNotFoundError or ValueError with what to do."""
    file = folder / FILE
    if not file.is_file():
        is_unfinished = (folder / SETTINGS).is_file()
        raise FileNotFoundError(
            f"codec.path={folder} is wrong because the training of this codec is not finished. "
            f"pathline codec train --resume {folder}"
            if is_unfinished
            else f"codec.path={folder} is wrong because there is no trained codec: the folder has "
            f"no {FILE}. Name the run folder of `pathline codec train`."
        )
    try:
        about = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError:
        about = {}
    # A description that is cut or of another network cannot be used.
    missing = [key for key in KEYS if key not in about]
    if missing or about["network"] not in NETWORKS:
        problem = f"{missing[0]} is missing" if missing else f"{about['network']} is no network"
        raise ValueError(
            f"{file} can't be read: {problem}. Write it again: "
            f"pathline codec train --resume {folder}"
        )
    if not all(value > 0 for value in about["std"]):
        raise ValueError(
            f"codec.path={folder} is wrong because a latent channel is constant. Train it longer."
        )
    return about


def _load(folder: Path, about: Mapping[str, Any]) -> Autoencoder:
    file = folder / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{file}, the weights of this codec, is missing.")
    if digest(file) != about["sha256"]:
        raise ValueError(
            f"{file} is not the file that {FILE} describes (its digest differs). Write both again: "
            f"pathline codec train --resume {folder}"
        )
    # JSON has no tuples, which options such as widths are.
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in about["options"].items()}
    with torch.random.fork_rng(devices=[]):  # its first weights are overwritten
        network = NETWORKS[about["network"]](about["pixels"], **options)
    return load_weights(network, read_tensors(file), file).eval().requires_grad_(False)


NETWORKS = {"kl_small": kl_small, "vqvae": vqvae, "fsq": fsq}
