"""Records that travel between packages. Time runs from 0 (noise) to 1 (data) everywhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, device, nn


class CacheInfo(NamedTuple):
    """What a cache records of its codec and text encoder, so that neither needs to be loaded."""

    codec: str  # id
    channels: int  # of raw
    factor: int
    mean: tuple[float, ...]  # of raw, measured, by channel
    std: tuple[float, ...]
    text: str  # id
    text_width: int
    pooled_width: int


class Facts(NamedTuple):
    """What a run knows of its data; saved with the weights, which need the data no more."""

    channels: int  # of the pictures
    height: int
    width: int
    names: tuple[str, ...] = ()  # class names, in label order
    words: tuple[str, ...] = ()  # every word of the captions, in table order
    sizes: tuple[tuple[int, int], ...] = ()  # (height, width) of the buckets; () for one size
    cache: CacheInfo | None = None  # of the cache that the run trains on
    vision: str = ""  # id of the encoder whose features the data has; "": none
    vision_width: int = 0
    pictures: str = ""  # their number, and a digest of their names in order; "": unknown


class Frame(NamedTuple):
    """What a network must know of its data before it can be built."""

    channels: int  # of x1
    height: int
    width: int
    classes: int = 0  # labels are 0 … classes − 1; `classes` itself is the null label
    text_width: int = 0  # of Cond.tokens as the backbone receives them
    pooled_width: int = 0  # of Cond.pooled


class Cond(NamedTuple):
    """The conditioning of a batch; any field may be absent."""

    tokens: Tensor | None = None  # [B L D] text states
    mask: Tensor | None = None  # [B L] true where there is text
    pooled: Tensor | None = None  # [B D]
    labels: Tensor | None = None  # [B] class index
    words: Tensor | None = None  # [B L] word index, for an encoder that is trained along


def rows_of(cond: Cond, rows: Tensor | Sequence[int] | slice) -> Cond:
    """The condition of these rows."""
    return Cond(*(None if value is None else value[rows] for value in cond))


class Example(NamedTuple):
    """One decoded picture of a data source."""

    image: Tensor  # uint8 [C H W]
    caption: str | None
    label: int | None
    key: str  # stable name: a file, a row
    captions: tuple[str, ...] = ()  # all of them, where there are several
    of: tuple[int, ...] = ()  # the number of the caption that each arranges; (): its own
    repeats: int = 1  # times it comes in an epoch


class Batch(NamedTuple):
    x1: Tensor  # [B C H W] normalised data
    cond: Cond  # rows of B
    null: Cond  # one row: the null condition (unconditional)
    keys: Tensor  # [B] row numbers in the data source, to name a picture in a message
    features: Tensor | None = None  # [B E I J] a frozen encoder's features of the clean images
    done: float = 0.0  # share of the training's updates before this one


class Point(NamedTuple):
    """A point of the path and what the path does there."""

    x0: Tensor  # [B C H W] noise
    x1: Tensor  # [B C H W] data
    t: Tensor  # [B]
    xt: Tensor  # [B C H W]
    v: Tensor  # [B C H W] velocity
    labels: Tensor | None = None  # [B] class labels, null labels included
    features: Tensor | None = None  # [B' E I J] as of the batch, a row for each of its pictures


class Route(NamedTuple):
    """Which tokens of each image go through the routed blocks of a backbone."""

    indices: Tensor  # [B K] of these tokens, ascending; K = 0: the routed blocks do not run
    skipped: Tensor | None = None  # [B] true where the join gets nothing from the routed blocks

    def last(self, rows: int) -> "Route":
        """The route of the last `rows` images. Raises ValueError if there are fewer."""
        if rows > len(self.indices):
            raise ValueError(
                f"A route was sampled for {len(self.indices)} images and the network is called "
                f"with {rows}. A loss must call it with its whole batch or the last rows of it."
            )
        skipped = None if self.skipped is None else self.skipped[-rows:]
        return Route(self.indices[-rows:], skipped)


class Call(NamedTuple):
    """Optional inputs of one call of a network, besides x, t and the condition."""

    r: Tensor | None = None  # [B] the later time of an average velocity, t ≤ r ≤ 1
    route: Route | None = None  # of tokens through the backbone; None: all through all blocks
    hidden: Tensor | None = None  # [B L D] an earlier call's hidden states, not computed again
    y: Tensor | None = None  # [N C H W] state of the transition head, N a multiple of B
    s: Tensor | None = None  # [M I J] inner times of the transition head; M, I, J may be 1
    project: bool = False  # whether the output has `projected`


PLAIN_CALL = Call()


class Output(NamedTuple):
    """What a backbone returns; objectives replace `value` by the velocity before terms see it."""

    value: Tensor  # [B C H W]
    hidden: Tensor | None = None  # [B L D] image tokens after the last block
    inner: Tensor | None = None  # [B L D] image tokens after the block whose output loss terms read
    projected: Tensor | None = None  # [B E H W] `hidden` or `inner` after a trained projector


class Codec(NamedTuple):
    """Pixels to raw latents and back; the codec owns its statistics."""

    encode: Callable[[Tensor], Tensor]  # uint8 [B C H W] -> raw
    decode: Callable[[Tensor], Tensor]  # raw -> uint8 [B C H W]
    mean: Tensor  # [C] of raw
    std: Tensor  # [C] of raw
    factor: int  # downsampling: pixels along a side of one latent position
    channels: int  # of raw
    id: str  # what raw latents depend on: row, weights, options; never empty
    to: Callable[[device], None] | None = None  # where frozen weights run; they load at first use


class Text(NamedTuple):
    """Captions or labels to Cond; `null` is the null condition (unconditional)."""

    encode: Callable[[Sequence[str | int | None]], Cond]  # None: the null condition
    null: Cond  # one row
    width: int = 0  # of Cond.tokens as the backbone receives them
    module: nn.Module | None = None  # Cond.words -> Cond.tokens, when trained along
    pooled_width: int = 0  # of Cond.pooled
    id: str = ""  # what made a state: row, weights, revision
    to: Callable[[device], None] | None = None  # where frozen weights run; they load at first use


class Vision(NamedTuple):
    """Features of a frozen vision encoder, by position."""

    encode: Callable[[Tensor], Tensor]  # uint8 [B C H W] -> features [B E I J]
    width: int = 0  # E; 0: there is no encoder
    tokens: int = 0  # I·J of a square picture
    id: str = ""  # what made a feature: row, weights, revision
    to: Callable[[device], None] | None = None  # where frozen weights run; they load at first use


class Row(NamedTuple):
    """A row of a table that needs, offers or suggests something; any other row is a function.

    Needs are names in compatibility.NEEDS.
    """

    build: Callable[..., Any]
    needs: tuple[str, ...] = ()  # without them the run is refused
    prefers: tuple[str, ...] = ()  # without them there is a warning
    gives: tuple[str, ...] = ()  # what other rows may need
    suggests: Mapping[str, Any] = {}  # settings that go with it, by dotted key


class Objective(NamedTuple):
    """A training objective, and how the trained network is read as a velocity field."""

    # (network, batch, rng, draw, criterion, *, training=True) -> (scalar, {name: value})
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    field: Callable[..., "Field"]  # (network, cond)
    prediction: str  # what the network's own output is: "v" or "x1"
    answers: Literal["velocity", "average", "transition"] = "velocity"  # what its field gives
    needs: tuple[str, ...] = ()  # names in compatibility.NEEDS
    least_rows: int = 1  # images a micro-batch must have for every part of the loss to be trained
    head: Mapping[str, Any] | None = None  # settings of the head that samples its transitions


Field = Callable[..., Tensor]  # (x [B C H W], t: float or [B]) -> velocity [B C H W]
Item = (
    str | int | None
)  # what an image is sampled for: a prompt, a class index, or None: unconditional
