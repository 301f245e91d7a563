"""Self-attention and cross-attention, with optional qk-norm and rotary positions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from pathline.nn.blocks import EPS
from pathline.nn.positions import rotate
from pathline.types import Cond


class Attention(nn.Module):
    """Self-attention; q, k and v come from one matrix product."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        # q's, then k's; one flat vector, since weight decay is for tensors of two or more axes
        self.gain = nn.Parameter(torch.ones(2 * width // heads)) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        rope: Float[Tensor, "2 *rows l k"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """rope: one rotary table for all rows, or one for each. mask: true for keys attended to."""
        b, length, width = x.shape
        qkv = self.qkv(x).view(b, length, 3, self.heads, width // self.heads)
        q, k, v = self._normalise(qkv, rope)  # b l heads k
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
        )
        return self.out(y.transpose(1, 2).reshape(b, length, width))

    def _normalise(self, qkv: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v with q and k normalised and rotated together, in float32."""
        if self.gain is None and rope is None:
            q, k, v = qkv.unbind(2)
            return q, k, v
        # q and k as one tensor, so that norm and rotation are one kernel each.
        qk, v = qkv.split([2, 1], dim=2)
        with torch.autocast(qkv.device.type, enabled=False):
            qk = qk.float()
            if self.gain is not None:
                qk = F.rms_norm(qk, qk.shape[-1:], eps=EPS) * self.gain.view(2, 1, -1).float()
            if rope is not None:
                qk = rotate(qk, rope)
        q, k = qk.to(v.dtype).unbind(2)
        return q, k, v.squeeze(2)


class CrossAttention(nn.Module):
    """Queries from image tokens, keys and values from text; one matrix product for both."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.gain = nn.Parameter(torch.ones(2 * width // heads)) if qk_norm else None

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        text: Float[Tensor, "b m d"],
        mask: Bool[Tensor, "b 1 1 m"] | None = None,
    ) -> Float[Tensor, "b l d"]:
        """mask: true where there is text; a row without text gets zeros, not NaN."""
        b, length, width = x.shape
        q = self.q(x).view(b, length, self.heads, width // self.heads)
        k, v = self.kv(text).view(b, text.shape[1], 2, self.heads, -1).unbind(2)
        if self.gain is not None:
            gain_q, gain_k = self.gain.chunk(2)
            q, k = _rms_norm(q, gain_q), _rms_norm(k, gain_k)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
        )
        return self.out(y.transpose(1, 2).reshape(b, length, width))


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Each head's vector scaled to length √width, times the gain; computed in float32."""
    with torch.autocast(x.device.type, enabled=False):
        return (F.rms_norm(x.float(), x.shape[-1:], eps=EPS) * gain.float()).to(x.dtype)


def drop_full_mask(mask: Bool[Tensor, "b l"] | None) -> Bool[Tensor, "b l"] | None:
    """The mask, or None if it is all true: attention without a mask runs its fused kernels.

    Only a mask on the CPU is read; reading one on another device would wait for the device.
    """
    if mask is None or mask.device.type != "cpu":
        return mask
    return None if bool(mask.all()) else mask


def cond_to(cond: Cond, device: torch.device) -> Cond:
    """The condition on the device, without a mask that hides nothing."""
    if cond.words is None:  # the trained word encoder needs its mask
        cond = cond._replace(mask=drop_full_mask(cond.mask))
    return Cond(*(None if v is None else v.to(device, non_blocking=True) for v in cond))
