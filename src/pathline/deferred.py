"""Models that load at their first use, on the device that was chosen by then."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch


class Placed(Protocol):
    """What names itself and may run on another device: a Codec, a Text."""

    @property
    def id(self) -> str: ...

    @property
    def to(self) -> Callable[[torch.device], None] | None: ...


Model = TypeVar("Model")
Part = TypeVar("Part", bound=Placed)


def load_on_use(
    load: Callable[[], Model], move: Callable[[Model, torch.device], Any] | None = None
) -> tuple[Callable[[], Model], Callable[[torch.device], None]]:
    """(a function that returns the model, loaded once; a function that chooses its device).

    move: puts a loaded model on a device; None: its method `to`.
    """
    # The place is remembered, so that a model that loads later goes there.
    loaded: list[Model] = []
    place = [torch.device("cpu")]

    def put(model: Any, device: torch.device) -> None:
        move(model, device) if move else model.to(device)

    def get() -> Model:
        if not loaded:
            model = load()
            put(model, place[0])
            loaded.append(model)
        return loaded[0]

    def to(device: torch.device) -> None:
        place[0] = device
        for model in loaded:
            put(model, device)

    return get, to


def load_by_id(
    make: Callable[[], Part], id: str, made_what: str
) -> tuple[Callable[[], Part], Callable[[torch.device], None]]:
    """As `load_on_use`, for a part that must be the one that a cache was made with.

    Loading raises ValueError if the settings name another. made_what: "latents … codec".
    """

    def load() -> Part:
        part = make()
        if part.id != id:
            raise ValueError(
                f"data.cache is wrong because it has {made_what} {id!r}, and the settings name "
                f"{part.id!r}. Use the one that made it, or run pathline preprocess again."
            )
        return part

    def move(part: Part, device: torch.device) -> None:
        if part.to:
            part.to(device)

    return load_on_use(load, move)
