"""DiT (arXiv 2212.09748) with the flags that later work added; text joins as further tokens."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.backbones import token_routing as routes
from pathline.backbones.conditioning import initialise, refuse_misfit, run, steer
from pathline.backbones.dit_shape import SHAPES, DiTShape
from pathline.backbones.sizes import by_size
from pathline.backbones.token_routing import Fuse
from pathline.nn import blocks
from pathline.nn.attention import Attention
from pathline.nn.modulation import Own, modulation
from pathline.nn.positions import Table, rotary, sincos, unturned
from pathline.nn.token_select import Route
from pathline.types import Cond, Frame, Output


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
        turn: Float[Tensor, "2 *rows l k"] | None = None,
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
        pooled = frame.pooled_width
        self.text_pooled = blocks.TextIn(pooled, width) if pooled else None
        self.shared = nn.Linear(width, 6 * width) if shape.modulation == "shared" else None
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.depth)])
        self.fuse = Fuse(width) if shape.route == "sprint" else None
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
        route: Route | None = None,
    ) -> Output:
        """t in [0, 1]. cond: one row per picture, or one for all. route: None for all tokens.

        hidden, inner: the picture's tokens after the last block and after block `look`. Raises
        ValueError if x is not of the frame's size, or if the condition, r or route lacks what the
        network was built for or brings what it was not.
        """
        refuse_misfit(self, x, cond, r)
        steered = F.silu(steer(self, t, cond, r))  # b d
        stream = self.time.up.weight.dtype  # autocast must not narrow what blocks add to
        tokens = self.patch(blocks.patchify(x, self.shape.patch)).to(stream)  # b l d
        if self.places is not None:
            tokens = tokens + self.places().to(stream)
        count = tokens.shape[1]
        tokens, turn, mask = self._joined(tokens, cond)
        signal = steered if self.shared is None else self.shared(steered)
        seen: list[Tensor] = []
        step = partial(self._step, seen, signal)
        tokens = routes.walk(self, step, route, count, tokens, turn, mask)
        inner = seen[0][:, :count].clone() if seen else None
        # cloned, for fsdp2 loses its hook on a view; a slice of everything would cost a copy too
        hidden = tokens if self.text is None else tokens[:, :count].clone()
        patches = self.final(hidden, steered)
        value = blocks.unpatchify(patches, self.shape.patch, self.rows, self.columns)
        more = value.shape[1] > self.frame.channels
        return Output(value[:, : self.frame.channels] if more else value, hidden, inner)

    def _step(
        self,
        seen: list[Tensor],
        signal: Tensor,
        number: int,
        tokens: Tensor,
        turn: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """The tokens after this block; `seen` gets those that terms look at."""
        tokens = run(self.blocks[number], self.shape.checkpoint, tokens, signal, turn, mask)
        if number + 1 == self.shape.look:
            seen.append(tokens)
        return tokens

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


dit = by_size("DiT", DiT, SHAPES, "S/2")
