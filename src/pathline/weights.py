"""Weights read from files: all of them, or an error that names what is missing."""

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pathline.errors import REFUSED, PathlineError, is_out_of_memory

# The number formats of dtypes.py in torch; that module is for settings and imports no torch.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UNUSED = "pooler."  # nothing reads a top-level pooler; files of masked language models lack it


def first_not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with NaN or infinity in it; "" if there is none."""
    numbers = ((key, x) for key, x in tensors.items() if x.is_floating_point())
    return next((key for key, x in numbers if not x.isfinite().all()), "")


def require_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raises PathlineError, naming the first tensor with NaN or infinity, if there is one."""
    if key := first_not_finite(tensors):
        raise PathlineError(
            f"The weights of {source} are not finite: {key} has NaN or infinity in it, so they "
            "would draw black pictures. Use an earlier checkpoint, and train on from there with "
            "a lower optimizer.lr.",
            REFUSED,
        )


def read_tensors(file: Path) -> dict[str, Any]:
    """The tensors of a .safetensors or .pth file; nothing else is unpacked from it."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{file} can't be read as weights: {' '.join(str(error).split())}"
        ) from error


def load_weights(network: nn.Module, state: Mapping[str, Tensor], name: str | Path) -> Any:
    """The network with a file's weights, all of them. Raises ValueError otherwise."""
    places = network.state_dict()
    both = places.keys() & state.keys()
    check_weights(
        name,
        missing=places.keys() - state.keys(),
        unexpected=state.keys() - places.keys(),
        mismatched=[key for key in both if places[key].shape != state[key].shape],
    )
    network.load_state_dict(dict(state))
    return network


def check_weights(
    name: object,
    *,
    missing: Iterable[Any] = (),
    unexpected: Iterable[Any] = (),
    mismatched: Iterable[Any] = (),
) -> None:
    """Raise ValueError where weights would be random, of another shape, or left out."""
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    names = {kind: sorted(map(str, keys)) for kind, keys in problems.items()}
    count = sum(map(len, names.values()))
    if count:
        details = "; ".join(f"{kind}: {shorten(keys)}" for kind, keys in names.items() if keys)
        raise ValueError(
            f"{count} weights of {name} don't fit the model ({details}). Fetch it again, or name "
            "the model it was made from."
        )


def unread_weights(whole: nn.Module, part: nn.Module, missing: Iterable[str]) -> list[str]:
    """Those of the missing weights of `whole` that its submodule `part` computes with.

    A tied weight has several names and is read when the file has one of them. A name that the
    whole does not have stays missing: nothing tells where it belongs.
    """
    tensors, missing = whole.state_dict(keep_vars=True), set(missing)
    present = {id(tensor) for name, tensor in tensors.items() if name not in missing}
    used = {id(tensor) for tensor in part.state_dict(keep_vars=True).values()} - present
    unread = [name for name in missing if name not in tensors or id(tensors[name]) in used]
    return [name for name in unread if not name.startswith(UNUSED)]


def submodule(whole: Any, path: str) -> Any:
    """The part at a dotted path; steps that are absent are skipped, as in a part saved alone."""
    for step in path.split(".") if path else ():
        whole = getattr(whole, step, whole)
    return whole


def shorten(names: list[str]) -> str:
    """The first three names and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
