"""When a ddt's encoder runs in sampling: between two such times, steps share its hidden states."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pathline.ranges import Positive
from pathline.types import PLAIN_CALL, Call, Cond, Field, Output, Row


def share_encoder(
    read: Callable[..., Field], network: Callable[..., Output], cond: Cond, times: Sequence[float]
) -> Field:
    """An objective's field in which the encoder runs once after each of the times.

    read: the objective's `field`. All evaluations between two of the times use the hidden states of
    the first; each field has its own. Without times every evaluation runs the encoder.
    """
    if not times:
        return read(network, cond)
    # Index of the current stretch of times, and the encoder's output in it.
    stretch, hidden = -1, None

    def with_hidden(x: Tensor, t: Tensor, cond: Cond, call: Call = PLAIN_CALL) -> Output:
        nonlocal hidden
        out = network(x, t, cond, call._replace(hidden=hidden))
        hidden = out.hidden
        return out

    inner = read(with_hidden, cond)

    def field(x: Tensor, t: float, *later: float) -> Tensor:
        nonlocal stretch, hidden
        # A new stretch: the encoder runs again at the next evaluation.
        now = bisect_right(times, t)
        if now != stretch:
            stretch, hidden = now, None
        return inner(x, t, *later)

    return field


def none(*_: object) -> tuple[float, ...]:
    """The encoder runs at every evaluation."""
    return ()


def every(grid: Sequence[float], *_: object, steps: Positive = 2) -> tuple[float, ...]:
    """The encoder runs in the first of every `steps` steps."""
    return tuple(grid[:-1:steps])


def program(
    grid: Sequence[float], measure: Callable[[], Float[Tensor, "n n"]], *, calls: Positive = 8
) -> tuple[float, ...]:
    """The encoder runs in the `calls` steps that lose the least similarity over the grid.

    measure: returns the similarity of the encoder's hidden states in any two steps. The loss of a
    step is 1 − its similarity with the last step in which the encoder ran; O(calls · n²).
    """
    n = len(grid) - 1
    if calls > n:
        raise ValueError(
            f"sample.sharing.calls={calls} is wrong because in {n} steps the encoder runs 1 to {n} "
            "times. Set a number in this range."
        )
    similarity = measure()
    if len(similarity) != n:
        raise ValueError(
            f"There are {n} steps but {len(similarity)} evaluations: sample.sharing=program needs "
            "a solver of one evaluation a step, such as euler or unipc2."
        )
    losses = (1 - similarity.double()).tolist()
    # shared[i][j]: loss of steps i … j − 1, all with the hidden states of step i
    shared = [[sum(losses[i][i:j]) for j in range(n + 1)] for i in range(n)]
    # Dynamic programming: best[j] is the least loss of j steps, and where the encoder ran.
    best: list[tuple[float, tuple[int, ...]]] = [(shared[0][j], (0,)) for j in range(n + 1)]
    for count in range(2, calls + 1):
        best = [
            min(
                ((best[i][0] + shared[i][j], (*best[i][1], i)) for i in range(count - 1, j)),
                default=(float("inf"), ()),
            )
            for j in range(n + 1)
        ]
    return tuple(grid[i] for i in best[n][1])


def step_similarity(states: Sequence[Float[Tensor, "b l d"]]) -> Float[Tensor, "n n"]:
    """Mean cosine between the hidden states of any two steps, over tokens and images, float64."""
    unit = torch.stack([F.normalize(h.cpu().double(), dim=-1) for h in states]).flatten(1)
    tokens = states[0].shape[0] * states[0].shape[1]
    return unit @ unit.T / tokens


NEEDS = ("encoder", "fixed_steps")
SHARING = {"none": none, "every": Row(every, NEEDS), "program": Row(program, NEEDS)}
