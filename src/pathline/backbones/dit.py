"""DiT (arXiv 2212.09748) with the flags that later work added; text joins as further tokens."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import LowRank, Offset, Own, modulation
from pathline.nn.positions import Table, rotary, sincos, unturned
from pathline.types import Cond, Frame, Output

Norm = Literal["layer", "rms"]
Mlp = Literal["gelu", "swiglu"]
Positions = Literal["sincos", "rope", "both"]
Modulation = Literal["block", "shared", "lowrank"]


@dataclass(frozen=True)
class DiTShape:
    """What a DiT is made of, whatever the data. The settings are explained at `dit`."""

    depth: int
    width: int
    heads: int
    patch: int
    norm: Norm = "layer"
    mlp: Mlp = "gelu"
    qk_norm: bool = False
    positions: Positions = "sincos"
    theta: float = 256.0
    modulation: Modulation = "block"
    rank: int = 32
    bottleneck: int = 0
    outputs: int | None = None
    time_scale: float = 1000.0
    label_std: float = 0.02
    takes_r: bool = False
    bias: bool = True
    checkpoint: bool = False

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "patch", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.bottleneck < 0:
            raise ValueError(f"bottleneck must be at least 0, got {self.bottleneck}.")
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is none of {', '.join(get_args(kind))}."
                )
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} can't be split among {self.heads} heads: "
                f"{self.width} / {self.heads} = {self.width / self.heads:.2f}."
            )


CHOICES = {"norm": Norm, "mlp": Mlp, "positions": Positions, "modulation": Modulation}


class Block(nn.Module):
    """Attention and feed-forward, each modulated before and gated after; identity at the start."""

    def __init__(self, shape: DiTShape) -> None:
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
        signal: Float[Tensor, "b e"],
        turn: Float[Tensor, "2 l k"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(signal)  # b 1 d
        y = self.attention(blocks.modulate(self.norm1(x), shift1, scale1), turn, mask)
        x = torch.addcmul(x, gate1, y)
        y = self.mlp(blocks.modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, gate2, y)


class Final(nn.Module):
    """Modulated norm, then tokens -> patches; zero at the start."""

    def __init__(self, shape: DiTShape, outputs: int) -> None:
        super().__init__()
        self.modulation = Own(shape.width, 2)
        self.norm = blocks.norm(shape.norm, shape.width)
        self.linear = nn.Linear(shape.width, shape.patch**2 * outputs)

    def forward(
        self, x: Float[Tensor, "b l d"], signal: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b l e"]:
        shift, scale = self.modulation(signal)
        return self.linear(blocks.modulate(self.norm(x), shift, scale))


class DiT(nn.Module):
    """(x [B C H W], t [B], cond, r) -> Output. Tokens: picture row by row, then text."""

    def __init__(self, frame: Frame, shape: DiTShape) -> None:
        super().__init__()
        if frame.height % shape.patch or frame.width % shape.patch:
            raise ValueError(blocks.misfit(frame.height, frame.width, shape.patch))
        width = shape.width
        outputs = frame.channels if shape.outputs is None else shape.outputs
        if outputs < frame.channels:
            raise ValueError(f"outputs {outputs} is less than the {frame.channels} channels.")
        self.frame, self.shape = frame, shape
        self.rows, self.columns = frame.height // shape.patch, frame.width // shape.patch
        self.patch = blocks.patch_in(shape.patch**2 * frame.channels, shape.bottleneck, width)
        self.time = blocks.TimeEmbedding(width, scale=shape.time_scale)
        self.span = blocks.TimeEmbedding(width, scale=shape.time_scale) if shape.takes_r else None
        self.label_table = nn.Embedding(frame.classes + 1, width) if frame.classes else None
        self.text = blocks.TextIn(frame.text_width, width) if frame.text_width else None
        self.shared = nn.Linear(width, 6 * width) if shape.modulation == "shared" else None
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.depth)])
        self.final = Final(shape, outputs)
        grid, head = (self.rows, self.columns), width // shape.heads
        self.places = Table(sincos(*grid, width)) if shape.positions != "rope" else None
        turned = shape.positions != "sincos"
        self.turn = Table(rotary(*grid, head, theta=shape.theta)) if turned else None
        initialise(self)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        r: Float[Tensor, " b"] | None = None,
    ) -> Output:
        """t in [0, 1]. cond: one row per picture, or one for all.

        hidden: the picture's tokens after the last block. Raises ValueError if x is not of the
        frame's size, or if the condition or r lacks what the network was built for or brings
        what it was not.
        """
        refuse_misfit(self, x, cond, r)
        steer = self._steer(t, cond, r)  # b d
        stream = self.time.up.weight.dtype  # autocast must not narrow what blocks add to
        tokens = self.patch(blocks.patchify(x, self.shape.patch)).to(stream)  # b l d
        if self.places is not None:
            tokens = tokens + self.places().to(stream)
        count = tokens.shape[1]
        tokens, turn, mask = self._joined(tokens, cond)
        signal = steer if self.shared is None else self.shared(steer)
        for block in self.blocks:
            tokens = self._run(block, tokens, signal, turn, mask)
        # a slice of everything still costs a copy in the backward pass
        hidden = tokens if self.text is None else tokens[:, :count]
        patches = self.final(hidden, steer)
        value = blocks.unpatchify(patches, self.shape.patch, self.rows, self.columns)
        more = value.shape[1] > self.frame.channels
        return Output(value[:, : self.frame.channels] if more else value, hidden)

    def _steer(self, t: Tensor, cond: Cond, r: Tensor | None) -> Tensor:
        """What every modulation reads: time, span and label embedded, summed, activated once."""
        steer = self.time(t)
        if self.span is not None and r is not None:
            steer = steer + self.span(r - t)
        if self.label_table is not None:
            steer = steer + self.label_table(cond.labels)
        return F.silu(steer)

    def _joined(self, tokens: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Picture tokens followed by text tokens, their rotary table and their key mask."""
        turn = None if self.turn is None else self.turn()
        if self.text is None or cond.tokens is None:
            return tokens, turn, None
        b, count, _ = tokens.shape
        text = self.text(cond.tokens)
        joined = torch.cat([tokens, text.expand(b, -1, -1).to(tokens.dtype)], dim=1)
        if turn is not None:
            turn = unturned(turn, text.shape[1])
        if cond.mask is None:
            return joined, turn, None
        mask = F.pad(cond.mask.expand(b, -1), (count, 0), value=True)
        return joined, turn, mask[:, None, None, :]

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.shape.checkpoint and torch.is_grad_enabled():
            return recompute(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)


def initialise(network: DiT) -> None:
    """DiT's published start: Xavier everywhere, small embeddings, nothing let through."""
    blocks.xavier(network)
    for time in (network.time, network.span):
        if time is not None:
            nn.init.normal_(time.up.weight, std=0.02)
            nn.init.normal_(time.down.weight, std=0.02)
    if network.label_table is not None:
        nn.init.normal_(network.label_table.weight, std=network.shape.label_std)
    if network.shared is not None:
        nn.init.zeros_(network.shared.weight)
    for module in network.modules():
        if isinstance(module, Own | LowRank | Offset):
            module.zero()
    nn.init.zeros_(network.final.linear.weight)


def refuse_misfit(network: DiT, x: Tensor, cond: Cond, r: Tensor | None) -> None:
    """Raises ValueError if the inputs are not what the network was built for."""
    frame = network.frame
    if x.shape[1:] != (frame.channels, frame.height, frame.width):
        raise ValueError(
            f"This network was built for pictures of {frame.channels}x{frame.height}x{frame.width} "
            f"(channels, height, width), got {'x'.join(map(str, x.shape[1:]))}."
        )
    if (r is not None) != network.shape.takes_r:
        raise ValueError(
            "This network was built with takes_r=true and needs the later time r."
            if r is None
            else "This network knows one time only; to learn an average velocity from t to r, "
            "build it with takes_r=true."
        )
    for name, given, wanted in (
        ("labels", cond.labels, frame.classes),
        ("tokens", cond.tokens, frame.text_width),
    ):
        if (given is not None) != bool(wanted):
            state = f"has no {name}, but this network was built with them"
            if not wanted:
                state = f"has {name}, but this network was built without"
            raise ValueError(f"The condition {state}.")


SHAPES = {
    "S/2": DiTShape(depth=12, width=384, heads=6, patch=2),
    "S/4": DiTShape(depth=12, width=384, heads=6, patch=4),
    "S/8": DiTShape(depth=12, width=384, heads=6, patch=8),
    "B/2": DiTShape(depth=12, width=768, heads=12, patch=2),
    "B/4": DiTShape(depth=12, width=768, heads=12, patch=4),
    "B/8": DiTShape(depth=12, width=768, heads=12, patch=8),
    "L/2": DiTShape(depth=24, width=1024, heads=16, patch=2),
    "L/4": DiTShape(depth=24, width=1024, heads=16, patch=4),
    "L/8": DiTShape(depth=24, width=1024, heads=16, patch=8),
    "XL/2": DiTShape(depth=28, width=1152, heads=16, patch=2),
    "XL/4": DiTShape(depth=28, width=1152, heads=16, patch=4),
    "XL/8": DiTShape(depth=28, width=1152, heads=16, patch=8),
}


def dit(
    frame: Frame,
    *,
    size: str = "S/2",
    depth: int | None = None,
    width: int | None = None,
    heads: int | None = None,
    patch: int | None = None,
    norm: Norm = "layer",
    mlp: Mlp = "gelu",
    qk_norm: bool = False,
    positions: Positions = "sincos",
    theta: float = 256.0,
    modulation: Modulation = "block",
    rank: int = 32,
    bottleneck: int = 0,
    outputs: int | None = None,
    time_scale: float = 1000.0,
    label_std: float = 0.02,
    takes_r: bool = False,
    bias: bool = True,
    checkpoint: bool = False,
) -> DiT:
    """A DiT for pictures of `frame`; a published size, or parts of it replaced.

    size: S, B, L or XL / patch. positions: sincos adds a table, rope turns heads (base theta).
    modulation: each block its own projection, one shared with a table per block, or of low rank.
    bottleneck: width between patch and network, 0 for none. outputs: channels the network gives,
    of which the first frame.channels are the value (official weights have twice as many).
    label_std: of the label table; 1 learns labels far sooner in a short training. takes_r: a second
    time, for average velocities. bias: in attention and feed-forward. checkpoint: recompute blocks
    in the backward pass to save memory. The first weights come from torch's default generator.
    Raises ValueError for an unknown size and for numbers that don't divide.
    """
    given = {key: value for key, value in locals().items() if key not in ("frame", "size")}
    if size not in SHAPES:
        near = get_close_matches(size, SHAPES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"There is no DiT size {size!r}.{hint} There are: {', '.join(SHAPES)}.")
    base = SHAPES[size]
    sizes = ("depth", "width", "heads", "patch")
    changes = {key: x for key, x in given.items() if not (key in sizes and x is None)}
    return DiT(frame, replace(base, **changes))
