"""Whether a run's images of captioned scenes show what their prompts say.

Scored are pairs of colour and shape that were trained on, pairs that were not, and places swapped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathline.data.sources.shapes import draw as draw_scene
from pathline.data.sources.shapes import scored
from pathline.metrics.scenes import Adherence, adherence
from pathline.scene_grammar import SIDE, Scene, caption, parse
from pathline.types import Item

SamplePrompts = Callable[[Sequence[str], Sequence[int]], Tensor]  # with a seed for each

PROMPTS = 200  # scored on each split, at most
SCORE_SEED = 1_000_000  # of prompts that no training scene was made with
SPLITS = ("seen", "held_out", "swapped")


def is_scenes(items: Sequence[Item], height: int, width: int) -> bool:
    """Whether these are captions of scenes, of the size that the detector reads."""
    try:
        for item in items:
            parse(item if isinstance(item, str) else "")
    except ValueError:
        return False
    return bool(items) and (height, width) == (SIDE, SIDE)


def scene_scores(sample: SamplePrompts, n: int, seed: int) -> dict[str, Any]:
    """Adherence on each split, with that of the detector on real scenes, its upper limit.

    swapped: the prompts of two objects with their places exchanged, from the same noise.
    `order_accuracy` is the share of both kinds of image that fit their own prompt better.
    """
    count = min(n, PROMPTS)
    scores, images = {}, {}
    for split in SPLITS:
        scenes = _scenes(split, count)
        prompts = [caption(scene) for scene in scenes.values()]
        images[split] = sample(prompts, [seed + index for index in scenes])
        # The detector's mistakes on real scenes are the limit for sampled ones.
        real = torch.from_numpy(np.stack([draw_scene(scene) for scene in scenes.values()]))
        scores[split] = {
            "sampled": _to_dict(adherence(images[split], prompts)),
            "real": _to_dict(adherence(real, prompts)),
        }
    order = _order_accuracy(images["seen"], images["swapped"], count)
    scores["swapped"]["order_accuracy"] = order
    return scores


def _scenes(split: str, count: int) -> dict[int, Scene]:
    """The split's scenes by their index among `count`."""
    if split != "swapped":
        return dict(enumerate(scored(split, count, SCORE_SEED)))
    scenes = enumerate(scored("seen", count, SCORE_SEED))
    return {at: swapped(scene) for at, scene in scenes if caption(scene) != caption(swapped(scene))}


def swapped(scene: Scene) -> Scene:
    """Each of two objects at the other's place; a single one stays."""
    if len(scene.things) == 1:
        return scene
    first, second = scene.things
    return Scene((second._replace(box=first.box), first._replace(box=second.box)), scene.relation)


def _order_accuracy(images: Tensor, swapped_images: Tensor, count: int) -> float:
    """Share of images that fit their own prompt better than the one with places exchanged."""
    before, after = _scenes("seen", count), _scenes("swapped", count)
    pixels = torch.cat([images[list(after)], swapped_images])
    first = [caption(before[at]) for at in after]
    second = [caption(scene) for scene in after.values()]
    right = np.asarray(_attribute_shares(adherence(pixels, first + second)))
    wrong = np.asarray(_attribute_shares(adherence(pixels, second + first)))
    return float((right > wrong).mean())


def _attribute_shares(result: Adherence) -> list[float]:
    return [float(np.mean(list(picture.values()))) for picture in result.pictures]


def _to_dict(result: Adherence) -> dict[str, Any]:
    return {key: value for key, value in result._asdict().items() if key != "pictures"}
