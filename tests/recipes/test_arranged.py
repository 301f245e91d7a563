"""Tag lists of pictures without a cache: arranged as they are read, told by (seed, epoch, row)."""

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pathline.assemble import assemble
from pathline.config.resolve import read as settings
from pathline.runs.cache_inputs import cache_inputs
from pathline.runs.feed import flow_feeder
from pathline.runs.from_pictures import from_pictures
from pathline.training.loop import Progress

CPU = torch.device("cpu")
TAGS = ("data.tags.variants=1000", "data.tags.dropout=0.4", "data.tags.order=danbooru")
NET = (
    *("backbone.width=32", "backbone.depth=1", "backbone.heads=1", "backbone.patch=4"),
    *("data.size=8", "train.batch=4"),
)


@pytest.fixture
def root(tmp_path):
    """Three tagged pictures and one with a sentence."""
    rng = np.random.default_rng(0)
    for number, said in enumerate(
        [
            "long_hair, 1girl, smile, hat, outdoors, best quality",
            "1boy, short_hair, rain, umbrella, street",
            "no humans, red_sky, sea, boat",
            "A boat on the sea.",
        ]
    ):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(said)
    return tmp_path


def opened(root, *more):
    asked = settings(str(root), overrides=[*NET, *TAGS, *more]).run
    run, facts, data_for = from_pictures(asked, None, Console(quiet=True))
    parts = assemble(run, facts)
    return run, parts, data_for(parts)


def said(parts, cond):
    """The words of each row."""
    known = ("", "", *parts.facts.words)
    return [" ".join(known[n] for n in row if n > 1) for row in cond.words.tolist()]


def test_a_list_comes_in_another_order_each_time_and_thinned_out(root):
    _, parts, data = opened(root)
    whole = "1girl , long hair , smile , hat , outdoors , best quality"
    rows = torch.zeros(200, dtype=torch.long)
    found = said(parts, data.cond(rows, torch.arange(200) / 200.0))
    assert len(set(found)) > 100
    lists = [text.split(" , ") for text in found]
    assert all(tags[0] == "1girl" and set(tags) <= set(whole.split(" , ")) for tags in lists)
    assert sum(len(tags) - 1 for tags in lists) / 200 == pytest.approx(0.6 * 5, abs=0.25)
    assert said(parts, data.cond(rows[:1], None)) == [whole]  # as it is held out
    assert data.captions[0] == whole.replace(" ,", ",")
    prose = said(parts, data.cond(rows[:9] + 3, torch.arange(9) / 9.0))
    assert set(prose) == {"a boat on the sea ."}


def test_an_arrangement_is_told_by_seed_epoch_and_row(root):
    run, parts, data = opened(root)
    feeds = [flow_feeder(run, data, CPU), flow_feeder(run, data, CPU)]

    def fed(feed, images):
        ((batch, _),) = feed(Progress(0, images))
        return dict(zip(batch.keys.tolist(), said(parts, batch.cond), strict=True))

    epochs = [fed(feeds[0], 4 * epoch) for epoch in range(3)]
    assert epochs[2] == fed(feeds[1], 8)  # as a run that goes on there
    assert len({epoch[0] for epoch in epochs}) == 3


def test_the_arrangements_are_those_of_a_cache(root):
    _, parts, data = opened(root, "data.tags.variants=3")
    cached = cache_inputs(
        settings(str(root), overrides=[*NET, *TAGS, "data.tags.variants=3", "text=none"]).run
    )
    numbers = torch.tensor([0.0, 0.4, 0.7])
    here = said(parts, data.cond(torch.zeros(3, dtype=torch.long), numbers))
    assert [text.replace(" ,", ",") for text in here] == list(cached.source.about(0).captions)


def test_other_encoders_want_a_cache_for_it(root):
    with pytest.raises(ValueError, match=r"data.tags.variants .* for text=words alone"):
        opened(root, "text=t5", "text.path=nowhere")
