"""A projector upon any network, by which its hidden states answer to a frozen vision encoder's.

Trained along and never asked when drawing: REPA (arXiv 2410.06940), iREPA (arXiv 2512.10794).
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pathline.types import Cond, Output

Projector = Literal["conv", "mlp"]


class Aligned(nn.Module):
    """A network and its projector, as one network of the same signature."""

    def __init__(self, network: nn.Module, projector: nn.Module, patch: int) -> None:
        super().__init__()
        self.backbone = network
        self.projector = projector
        self.patch = patch

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        r: Float[Tensor, " b"] | None = None,
        *more: Tensor | None,
        project: bool = False,
        **ways: Any,
    ) -> Output:
        """The network's answer; with `project` what its hidden states show, too.

        Without it, the projector costs nothing: its weights get a gradient of 0 then, for which
        those who gather gradients would wait otherwise.
        """
        out: Output = self.backbone(x, t, cond, r, *more, **ways)
        if project:
            return out._replace(projected=self.projector(self._grid(out, x)))
        if torch.is_grad_enabled():
            idle = torch.stack([p.flatten()[0] for p in self.projector.parameters()])
            return out._replace(value=out.value + 0 * idle.sum().to(out.value))
        return out

    def _grid(self, out: Output, x: Tensor) -> Float[Tensor, "b d i j"]:
        """Tokens of the block that terms look at, or of the last one, on their grid."""
        tokens = out.hidden if out.inner is None else out.inner
        if tokens is None:
            raise ValueError(
                "The loss term 'alignment' reads hidden states, but this network gives none."
            )
        sides = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        return tokens.transpose(1, 2).unflatten(2, sides)


def aligned(
    network: nn.Module, backbone: nn.Module, features: int, projector: Projector, width: int
) -> Aligned:
    """The network with a projector to so many features.

    network: the backbone itself, or what holds it. conv: one convolution over neighbours (iREPA);
    mlp: three layers on each token, the inner ones of `width` (REPA). Raises ValueError for a
    backbone that has no tokens.
    """
    shape = getattr(backbone, "shape", None)
    tokens, patch = (getattr(shape, name, None) for name in ("width", "patch"))
    if tokens is None or patch is None:
        raise ValueError(
            f"terms.alignment reads hidden states, and {type(backbone).__name__} has none to give. "
            "Take another backbone, or leave the term out."
        )
    if width < 1:
        raise ValueError(f"terms.alignment.width is {width}; a projector is 1 wide or more.")
    if projector == "conv":
        return Aligned(network, nn.Conv2d(tokens, features, 3, padding=1), patch)
    layers = nn.Sequential(
        nn.Conv2d(tokens, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, features, 1),
    )
    return Aligned(network, layers, patch)
