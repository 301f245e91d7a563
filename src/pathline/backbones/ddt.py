"""Decoupled transformer (DDT, arXiv 2504.05741): an encoder says what is there, a decoder moves it.

The encoder is a DiT; the decoder sees x anew, each token steered by the encoder's own. Neighbouring
steps may share what the encoder said: `sharing`, with times from `every` or `program`.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones.conditioning import Unread, run
from pathline.backbones.dit import DiT
from pathline.backbones.dit_shape import BlockShape, DiTShape, Mlp, Norm, Positions
from pathline.backbones.sizes import by_size, check
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import LowRank, Offset, Own, modulation
from pathline.types import Cond, Field, Frame, Output, Row


@dataclass(frozen=True)
class DDTShape(BlockShape):
    """Decoupled transformer (arXiv 2504.05741): a condition encoder, a velocity decoder.

    depth: blocks of the encoder. The other settings are those of dit, for both halves.
    """

    qk_norm: bool = True
    norm: Norm = "rms"
    mlp: Mlp = "swiglu"
    positions: Positions = "both"
    decoder: int = 4  # blocks of the decoder, from 1

    def __post_init__(self) -> None:
        check(self, "rank")
        if self.decoder < 1:
            raise ValueError(f"decoder must be at least 1 block deep, got {self.decoder}.")

    def encoder(self) -> DiTShape:
        """The encoder's, which is a DiT."""
        return DiTShape(**{f.name: getattr(self, f.name) for f in fields(BlockShape)})


class Block(nn.Module):
    """DiT's block with a modulation for each token; identity at the start."""

    def __init__(self, shape: DDTShape) -> None:
        super().__init__()
        width = shape.width
        self.modulation = modulation(shape.modulation, width, 6, shape.rank)
        self.norm1 = blocks.norm(shape.norm, width)
        self.attention = Attention(width, shape.heads, qk_norm=shape.qk_norm, bias=shape.bias)
        self.norm2 = blocks.norm(shape.norm, width)
        self.mlp = blocks.feed_forward(shape.mlp, width, bias=shape.bias)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        signal: Float[Tensor, "b l e"],
        turn: Float[Tensor, "2 l k"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        parts = (part.view_as(x) for part in self.modulation(signal.flatten(0, 1)))
        shift1, scale1, gate1, shift2, scale2, gate2 = parts  # b l d
        y = self.attention(torch.addcmul(shift1, self.norm1(x), 1 + scale1), turn)
        x = torch.addcmul(x, gate1, y)
        y = self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))
        return torch.addcmul(x, gate2, y)


class Decoder(nn.Module):
    """Patches of x, blocks steered token by token, patches of velocity; zero at the start."""

    def __init__(self, channels: int, shape: DDTShape) -> None:
        super().__init__()
        width, outputs = shape.width, shape.patch**2 * channels
        self.patch = blocks.patch_in(outputs, shape.bottleneck, width)
        self.shared = nn.Linear(width, 6 * width) if shape.modulation == "shared" else None
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.decoder)])
        self.modulation = Own(width, 2)
        self.norm = blocks.norm(shape.norm, width)
        self.final = nn.Linear(width, outputs)
        self.checkpoint = shape.checkpoint
        blocks.xavier(self)
        nn.init.zeros_(self.final.weight)
        if self.shared is not None:
            nn.init.zeros_(self.shared.weight)
        for module in self.modules():
            if isinstance(module, Own | LowRank | Offset):
                module.zero()

    def forward(
        self,
        patches: Float[Tensor, "b l c"],
        steered: Float[Tensor, "b l d"],
        places: Float[Tensor, "l d"] | None,
        turn: Float[Tensor, "2 l k"] | None,
    ) -> Float[Tensor, "b l c"]:
        tokens = self.patch(patches).to(steered.dtype)
        tokens = tokens if places is None else tokens + places.to(tokens.dtype)
        signal = steered if self.shared is None else self.shared(steered)
        for block in self.blocks:
            tokens = run(block, self.checkpoint, tokens, signal, turn)
        shift, scale = (x.view_as(tokens) for x in self.modulation(steered.flatten(0, 1)))
        return self.final(torch.addcmul(shift, self.norm(tokens), 1 + scale))


class DDT(nn.Module):
    """(x [B C H W], t [B], cond, r) -> Output, whose hidden states a later call may be given."""

    def __init__(self, frame: Frame, shape: DDTShape) -> None:
        super().__init__()
        self.frame, self.shape = frame, shape
        self.encoder = DiT(frame, shape.encoder())
        self.encoder.add_module("final", Unread(shape.patch**2 * frame.channels))
        self.decoder = Decoder(frame.channels, shape)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        r: Float[Tensor, " b"] | None = None,
        hidden: Float[Tensor, "b l d"] | None = None,
    ) -> Output:
        """hidden: what the encoder said at an earlier t; it is not run then. The decoder knows t
        itself. Raises ValueError as DiT does for what it was not built for.
        """
        encoder = self.encoder
        if hidden is None:
            hidden = encoder(x, t, cond, r).hidden
        time = encoder.time(t)
        if encoder.span is not None and r is not None:
            time = time + encoder.span(r - t)
        places = None if encoder.places is None else encoder.places()
        turn = None if encoder.turn is None else encoder.turn()
        patches = blocks.patchify(x, self.shape.patch)
        patches = self.decoder(patches, F.silu(hidden + time[:, None]), places, turn)
        value = blocks.unpatchify(patches, self.shape.patch, encoder.rows, encoder.columns)
        return Output(value, hidden)


SHAPES = {
    "S/2": DDTShape(depth=8, decoder=4, width=384, heads=6, patch=2),
    "B/2": DDTShape(depth=8, decoder=4, width=768, heads=12, patch=2),
    "L/2": DDTShape(depth=20, decoder=4, width=1024, heads=16, patch=2),
    "XL/2": DDTShape(depth=22, decoder=6, width=1152, heads=16, patch=2),
}

ddt = by_size("DDT", DDT, SHAPES, "S/2")


def sharing(
    read: Callable[..., Field], network: Callable[..., Output], cond: Cond, times: Sequence[float]
) -> Field:
    """An objective's field in which the encoder runs once after each of the times.

    read: the objective's `field`. Between two of the times all evaluations share what the encoder
    said at the first; every field keeps its own. No times: nothing is shared.
    """
    if not times:
        return read(network, cond)
    span, hidden = -1, None

    def shared(x: Tensor, t: Tensor, cond: Cond, r: Tensor | None = None) -> Output:
        nonlocal hidden
        out = network(x, t, cond, r, hidden)
        hidden = out.hidden
        return out

    inner = read(shared, cond)

    def field(x: Tensor, t: float, *later: float) -> Tensor:
        nonlocal span, hidden
        now = bisect_right(times, t)
        if now != span:
            span, hidden = now, None
        return inner(x, t, *later)

    return field


def none(*_: object) -> tuple[float, ...]:
    """The encoder runs at every evaluation."""
    return ()


def every(grid: Sequence[float], *_: object, steps: int = 2) -> tuple[float, ...]:
    """The encoder runs in the first of every so many steps."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; the encoder runs every 1 step or more")
    return tuple(grid[:-1:steps])


def program(
    grid: Sequence[float], measure: Callable[[], Float[Tensor, "n n"]], *, calls: int = 8
) -> tuple[float, ...]:
    """The encoder runs in the `calls` steps that lose the least similarity over the grid.

    measure: gives the similarity of what the encoder says in any two steps. The loss of a step is
    1 − its similarity with the last one in which the encoder ran; O(calls · n²).
    """
    n = len(grid) - 1
    if not 1 <= calls <= n:
        raise ValueError(f"calls is {calls}; for {n} steps the encoder runs 1 to {n} times")
    similarity = measure()
    if len(similarity) != n:
        raise ValueError(
            f"There are {n} steps but {len(similarity)} evaluations: sharing by program needs a "
            "solver of one evaluation a step, such as euler or unipc2."
        )
    lost = (1 - similarity.double()).tolist()
    # held[i][j]: lost by steps i … j − 1 that all hear step i
    held = [[sum(lost[i][i:j]) for j in range(n + 1)] for i in range(n)]
    best: list[tuple[float, tuple[int, ...]]] = [(held[0][j], (0,)) for j in range(n + 1)]
    for count in range(2, calls + 1):
        best = [
            min(
                ((best[i][0] + held[i][j], (*best[i][1], i)) for i in range(count - 1, j)),
                default=(float("inf"), ()),
            )
            for j in range(n + 1)
        ]
    return tuple(grid[i] for i in best[n][1])


def likeness(states: Sequence[Float[Tensor, "b l d"]]) -> Float[Tensor, "n n"]:
    """Mean cosine between the hidden states of any two steps, over tokens and pictures, float64."""
    unit = torch.stack([F.normalize(h.cpu().double(), dim=-1) for h in states]).flatten(1)
    tokens = states[0].shape[0] * states[0].shape[1]
    return unit @ unit.T / tokens


NEEDS = ("encoder", "fixed_steps")
SHARING = {"none": none, "every": Row(every, NEEDS), "program": Row(program, NEEDS)}
