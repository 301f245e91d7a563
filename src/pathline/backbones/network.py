"""The network of a run: fixed children, so that names of weights never depend on settings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pathline.types import PLAIN, Call, Cond, Output


class Network(nn.Module):
    """Word encoder, backbone, transition head and projector as one; an absent child is None.

    words: trains along with the backbone and turns `cond.words` into `cond.tokens`. head: samples
    transitions from the backbone's hidden states (objective=transition). projector: maps hidden
    states to features of a vision encoder (terms.alignment). adapters: added by fine-tuning.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        words: nn.Module | None = None,
        head: nn.Module | None = None,
        projector: nn.Module | None = None,
        adapters: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.words = words
        self.backbone = backbone
        self.head = head
        self.projector = projector
        self.adapters = adapters

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        call: Call = PLAIN,
    ) -> Output:
        """t in [0, 1]; see `Call` for what a call may ask for. Raises ValueError for a misfit."""
        if self.head is None:
            out = self._run_backbone(x, t, cond, call)
        else:
            out = self._run_head(x, t, cond, call)
        return out if self.projector is None else self._project(out, call.project)

    @property
    def has_encoder(self) -> bool:
        """Whether the backbone has a condition encoder whose output steps can share (DDT)."""
        return getattr(self.backbone, "has_encoder", False)

    @property
    def has_bypass(self) -> bool:
        """Whether it works without the blocks that tokens may skip (route=sprint)."""
        return getattr(self.backbone, "fuse", None) is not None

    @property
    def takes_any_size(self) -> bool:
        """Whether positions are computed for any image size, not stored for one."""
        return getattr(self.backbone, "any_size", False)

    def _run_backbone(self, x: Tensor, t: Tensor, cond: Cond, call: Call) -> Output:
        # Hidden states of an earlier call stand for the condition: words need no encoding then.
        if self.words is not None and call.hidden is None:
            cond = cond._replace(tokens=self.words(cond.words, cond.mask))
        options = {"route": call.route, "hidden": call.hidden}
        options = {name: value for name, value in options.items() if value is not None}
        return self.backbone(x, t, cond, call.r, **options)

    def _run_head(self, x: Tensor, t: Tensor, cond: Cond, call: Call) -> Output:
        """The head's velocity at (y, s) for transitions out of (x, t), and the hidden states.

        Without y and s: the velocity at y = 0, s = 0, which is the mean transition.
        """
        assert self.head is not None
        hidden, inner = call.hidden, None
        if hidden is None:
            out = self._run_backbone(x, t, cond, call)
            hidden, inner = out.hidden, out.inner
        y, s = call.y, call.s
        if y is None or s is None:
            y, s = torch.zeros_like(x), t.new_zeros(1, 1, 1)
        return Output(self.head(y, s, t, hidden), hidden, inner)

    def _project(self, out: Output, is_read: bool) -> Output:
        """With the projected hidden states where they are read.

        Elsewhere the projector is not run, but its weights get a gradient of 0: DDP and FSDP
        would wait for it otherwise.
        """
        assert self.projector is not None
        if is_read:
            return out._replace(projected=self.projector(out))
        if torch.is_grad_enabled():
            idle = torch.stack([p.flatten()[0] for p in self.projector.parameters()])
            return out._replace(value=out.value + 0 * idle.sum().to(out.value))
        return out
