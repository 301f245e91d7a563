"""Names of number formats: one vocabulary for every setting and flag. Imports no torch."""

from typing import Literal, cast

Dtype = Literal["fp32", "bf16", "fp16"]
# What a command's flag takes: torch's names too.
DtypeName = Literal["fp32", "bf16", "fp16", "float32", "bfloat16", "float16"]
TORCH_NAMES: dict[Dtype, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SHORT_NAMES = {long: short for short, long in TORCH_NAMES.items()}


def short_name(name: str) -> Dtype:
    """The short name of a torch name; a short name stays."""
    return cast(Dtype, SHORT_NAMES.get(name, name))
