"""Captioned scenes: pictures as asked for reach the ceiling, a model deaf to order does not."""

import numpy as np
import torch

from pathline.data.sources.shapes import draw as draw_scene
from pathline.evaluation.adherence import SPLITS, _scenes, is_scenes, scene_scores, swapped
from pathline.scene_grammar import caption


def test_pictures_as_asked_for_reach_the_ceiling():
    truth = {caption(s): draw_scene(s) for split in SPLITS for s in _scenes(split, 24).values()}

    def perfect(items, _):
        return torch.from_numpy(np.stack([truth[item] for item in items]))

    found = scene_scores(perfect, 24, 0)
    assert [found[split]["sampled"] for split in SPLITS] == [found[s]["real"] for s in SPLITS]
    assert found["seen"]["sampled"]["exact"] == found["held_out"]["sampled"]["exact"] == 1.0
    assert found["seen"]["sampled"]["n"] == 24
    assert found["swapped"]["order_accuracy"] == 1.0


def test_a_model_deaf_to_order_is_found_out():
    truth = {}
    for scene in _scenes("seen", 24).values():
        truth[caption(scene)] = truth[caption(swapped(scene))] = draw_scene(scene)
    truth |= {caption(s): draw_scene(s) for s in _scenes("held_out", 24).values()}

    def deaf(items, _):
        return torch.from_numpy(np.stack([truth[item] for item in items]))

    found = scene_scores(deaf, 24, 0)
    assert found["seen"]["sampled"]["exact"] == 1.0
    assert found["swapped"]["sampled"]["exact"] == 0.0
    assert found["swapped"]["order_accuracy"] <= 0.5


def test_only_captions_of_scenes_are_scored_as_such():
    assert is_scenes(["a red circle", "a small blue square"], 32, 32)
    assert not is_scenes(["a red circle", "a photograph of a cat"], 32, 32)
    assert not is_scenes(["a red circle", None], 32, 32)
    assert not is_scenes(["a red circle"], 64, 64)
    assert not is_scenes([3], 32, 32)
