"""Do a run's pictures of captioned scenes show what was asked: seen, never seen, places swapped."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.sources.shapes import draw as draw_scene
from pathline.data.sources.shapes import scored
from pathline.evaluation.score import Draw, Item
from pathline.metrics.scenes import Adherence, adherence
from pathline.scene_grammar import SIDE, Scene, caption, parse

PROMPTS = 200  # scored on each split, at most
SCORE_SEED = 1_000_000  # prompts that no training scene was drawn with
SPLITS = ("seen", "held_out", "swapped")


def is_scenes(items: Sequence[Item], height: int, width: int) -> bool:
    """Whether these are captions of scenes, of the size that the detector reads."""
    try:
        for item in items:
            parse(item if isinstance(item, str) else "")
    except ValueError:
        return False
    return bool(items) and (height, width) == (SIDE, SIDE)


def scene_scores(draw: Draw, n: int, seed: int) -> dict[str, Any]:
    """Adherence on each split beside that of the detector on real scenes, its ceiling.

    swapped: the seen prompts of two things, each thing at the other's place, from the same noise.
    `told_apart` is the share of both kinds of picture that fit their own prompt better.
    """
    count = min(n, PROMPTS)
    found, drawn = {}, {}
    for split in SPLITS:
        scenes = _scenes(split, count)
        asked = [caption(scene) for scene in scenes.values()]
        drawn[split] = draw(asked, [seed + index for index in scenes])
        real = torch.from_numpy(np.stack([draw_scene(scene) for scene in scenes.values()]))
        found[split] = {
            "drawn": _facts(adherence(drawn[split], asked)),
            "ceiling": _facts(adherence(real, asked)),
        }
    found["swapped"]["told_apart"] = _told_apart(drawn["seen"], drawn["swapped"], count)
    return found


def _scenes(split: str, count: int) -> dict[int, Scene]:
    """The split's scenes by their place among `count`."""
    if split != "swapped":
        return dict(enumerate(scored(split, count, SCORE_SEED)))
    seen = enumerate(scored("seen", count, SCORE_SEED))
    return {at: swapped(scene) for at, scene in seen if caption(scene) != caption(swapped(scene))}


def swapped(scene: Scene) -> Scene:
    """Each of two things at the other's place; one alone stays."""
    if len(scene.things) == 1:
        return scene
    first, second = scene.things
    return Scene((second._replace(box=first.box), first._replace(box=second.box)), scene.relation)


def _told_apart(seen: Tensor, other: Tensor, count: int) -> float:
    before, after = _scenes("seen", count), _scenes("swapped", count)
    pixels = torch.cat([seen[list(after)], other])
    own = [caption(before[at]) for at in after] + [caption(scene) for scene in after.values()]
    turned = own[len(after) :] + own[: len(after)]
    fits = np.asarray(_shares(adherence(pixels, own))) > _shares(adherence(pixels, turned))
    return float(fits.mean())


def _shares(found: Adherence) -> list[float]:
    return [float(np.mean(list(picture.values()))) for picture in found.pictures]


def _facts(found: Adherence) -> dict[str, Any]:
    told = found._asdict()
    del told["pictures"]
    return told
