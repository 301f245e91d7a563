"""The settings that all backbones share, their checks, and named sizes as rows of a table.

A Shape is a frozen dataclass: its fields are the settings of a backbone, with type, default and,
in the comment, their meaning. `by_size` makes a row of BACKBONES of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar, get_type_hints

from torch import nn

from pathline.hints import nearest
from pathline.ranges import Depth, NotNegativeFloat, PositiveFloat, Range, Width
from pathline.types import Frame

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Shape:
    """What every transformer here has; without defaults: what only a size can decide."""

    depth: Depth  # number of blocks, from 1
    width: Width  # numbers in a token, a multiple of `heads`
    heads: Width  # attention heads
    # Side of the square of pixels or latent positions that makes a token.
    patch: Annotated[int, Range(1, 1024)]
    qk_norm: bool = False  # normalise queries and keys; keeps bf16 stable
    # Width between patch and network (JiT); 0: none.
    bottleneck: Annotated[int, Range(0, 2**17)] = 0
    # Factor on t before its sinusoidal embedding; 1 for mean flow, whose loss holds a derivative
    # in t.
    time_scale: PositiveFloat = 1000.0
    # Of the label table's first weights; 1 learns labels far sooner.
    label_std: NotNegativeFloat = 0.02
    takes_r: bool = False  # a second time r as input, for average velocities
    checkpoint: bool = False  # recompute blocks in the backward pass to save memory


def check(shape: Shape) -> None:
    """Raises ValueError for a width that heads cannot share."""
    if shape.width % shape.heads:
        raise ValueError(
            f"width {shape.width} can't be split among {shape.heads} heads: "
            f"{shape.width} / {shape.heads} = {shape.width / shape.heads:.2f}."
        )


def by_size(
    what: str, network: Callable[[Frame, Any], N], sizes: Mapping[str, Shape], size: str
) -> Callable[..., N]:
    """A row: (frame, *, size, and the fields of the Shape) -> network(frame, shape).

    An option that is left out, or None, is the size's own. The row raises ValueError for an unknown
    size; the first weights come from torch's default generator.
    """
    usual = size
    schema = type(sizes[size])

    def row(frame: Frame, *, size: str = usual, **options: Any) -> N:
        return network(frame, pick_size(what, sizes, size, options))

    row.__doc__ = schema.__doc__
    # inspect.signature and so every reader of a row's settings sees the fields as its keywords.
    vars(row).update(__signature__=_signature(sizes, usual), schema=schema)
    return row


def pick_size(
    what: str, sizes: Mapping[str, Shape], size: str, options: Mapping[str, Any]
) -> Shape:
    """The shape called `size` with these options in place of its own; None keeps the size's own.

    Raises ValueError for an unknown size.
    """
    if size not in sizes:
        hint = nearest(size, sizes)
        raise ValueError(f"There is no {what} size {size!r}.{hint} There are: {', '.join(sizes)}.")
    return replace(sizes[size], **{key: x for key, x in options.items() if x is not None})


def _signature(sizes: Mapping[str, Shape], usual: str) -> Signature:
    """`size` and every field as keywords; None is the default of a field that sizes differ in."""
    schema = type(sizes[usual])
    kinds = get_type_hints(schema, include_extras=True)
    keywords = [Parameter("size", Parameter.KEYWORD_ONLY, default=usual, annotation=str)]
    for f in fields(schema):
        values = {getattr(shape, f.name) for shape in sizes.values()}
        is_of_size = f.default is MISSING or values != {f.default}
        default, kind = (None, kinds[f.name] | None) if is_of_size else (f.default, kinds[f.name])
        keywords.append(Parameter(f.name, Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    frame = Parameter("frame", Parameter.POSITIONAL_OR_KEYWORD, annotation=Frame)
    return Signature([frame, *keywords], return_annotation=nn.Module)
