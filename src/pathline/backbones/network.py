"""The network of a run: a backbone, and what is trained around it, as children of fixed names."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pathline.types import PLAIN_CALL, Call, Cond, Output

Ability = Literal["r", "encoder", "route", "join", "head", "any_size"]
# Attributes of a backbone; one that lacks an attribute lacks the ability.
ABILITIES: dict[Ability, str] = {
    "r": "takes_r",  # takes a later time r
    "encoder": "has_encoder",  # takes the hidden states of an earlier call
    "route": "has_route",  # has blocks that some tokens skip in training
    "join": "has_join",  # can be called without these blocks
    "head": "takes_head",  # its last layer reads the hidden states, as a transition head does
    "any_size": "any_size",  # takes images of other sizes than the training size
}


class Network(nn.Module):
    """(x, t, cond, call) -> Output. Weights have the same names whatever children there are.

    words: an encoder of captions that is trained with the backbone. projector: of hidden states to
    the features of a vision encoder. head: samples transitions from hidden states, in place of the
    backbone's last layer. adapters: small matrices added to the backbone's. An absent one is None.
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
        # the order in which their first weights are drawn, and so that of all parameters
        self.words = words
        self.backbone = backbone
        self.head = head
        self.projector = projector
        self.adapters = adapters

    def has(self, ability: Ability) -> bool:
        """Whether the backbone has this ability."""
        return bool(getattr(self.backbone, ABILITIES[ability], False))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Cond,
        call: Call = PLAIN_CALL,
    ) -> Output:
        """The velocity or x1 at (x, t), of the backbone or of the head, and hidden states.

        With a head, call.hidden takes the place of the backbone, and y and s left out are 0: the
        value is the mean of all transitions then.
        """
        if self.head is None:
            return self._project(self._run_backbone(x, t, cond, call), x, call)
        inner, hidden = None, call.hidden
        if hidden is None:
            out = self._run_backbone(x, t, cond, call)
            hidden, inner = out.hidden, out.inner
        y, s = call.y, call.s
        # At s = 0 the inner velocity is E[Y] − y, so that y = 0 gives the mean of Y.
        if y is None or s is None:
            y, s = torch.zeros_like(x), t.new_zeros(1, 1, 1)
        return self._project(Output(self.head(y, s, t, hidden), hidden, inner), x, call)

    def _run_backbone(self, x: Tensor, t: Tensor, cond: Cond, call: Call) -> Output:
        if self.words is not None:
            cond = cond._replace(tokens=self.words(cond.words, cond.mask))
        return self.backbone(x, t, cond, call)

    def _project(self, out: Output, x: Tensor, call: Call) -> Output:
        """The output with projected hidden states, where the call asks for them."""
        if self.projector is None:
            return out
        if call.project:
            return out._replace(projected=self.projector(self._token_grid(out, x)))
        if not torch.is_grad_enabled():
            return out
        # a gradient of 0 for the projector: DDP waits for the gradients of all parameters
        unused = torch.stack([p.flatten()[0] for p in self.projector.parameters()])
        return out._replace(value=out.value + 0 * unused.sum().to(out.value))

    def _token_grid(self, out: Output, x: Tensor) -> Float[Tensor, "b d i j"]:
        """Tokens of the feature layer, or else of the last block, by row and column."""
        tokens = out.hidden if out.inner is None else out.inner
        if tokens is None:
            raise ValueError(
                "terms.alignment is wrong because this backbone returns no hidden states. Set "
                "another backbone, or leave the term out."
            )
        shape: Any = self.backbone.shape
        sides = (x.shape[2] // shape.patch, x.shape[3] // shape.patch)
        return tokens.transpose(1, 2).unflatten(2, sides)
