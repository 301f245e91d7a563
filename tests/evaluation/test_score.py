"""Scores of sets of pictures mean what they say; processes that share the drawing draw the same."""

import subprocess
import sys

import pytest
import torch

from pathline.config.pick import Pick
from pathline.evaluation import shared_sampling
from pathline.evaluation.score import prepare_scorer, score, score_diversity
from pathline.evaluation.shared_sampling import sample_shared
from pathline.evaluation.training_images import Reference, random_rows

CPU = torch.device("cpu")


def test_the_reference_itself_is_perfect_new_real_pictures_are_good_and_negatives_are_not(pixels):
    scorer = prepare_scorer(Pick("pca"), Reference("digits", pixels[:400]), 200, 0, CPU)
    rows = random_rows(400, 200, 0)  # the very pictures that the drawn ones are compared with
    same, new, bad = (
        score(scorer, drawn, [], 0)["scores"]
        for drawn in (pixels[:400][rows], pixels[400:], 255 - pixels[400:])
    )
    assert same["FD-pca"] < 1e-6
    assert same["precision"] == same["recall"] == 1.0
    assert scorer.baseline_n == 200
    assert new["FD-pca"] < 2 * scorer.baseline["FD-pca"] < 0.1 * bad["FD-pca"]
    assert new["precision"] > 0.7 > bad["precision"]


def test_copies_of_training_pictures_are_found_out(pixels):
    train, held, new = pixels[:300], pixels[300:450], pixels[450:600]
    scorer = prepare_scorer(Pick("pca"), Reference("digits", train, held=held), 150, 0, CPU)
    assert score(scorer, train[:150], [], 0)["scores"]["nearest_ratio"] < 0.1
    assert 0.8 < score(scorer, new, [], 0)["scores"]["nearest_ratio"] < 1.2


@pytest.mark.parametrize(("held_count", "is_scored"), [(3, False), (49, False), (50, True)])
def test_few_held_out_pictures_have_no_distance(pixels, held_count, is_scored):
    reference = Reference("digits", pixels[:300], held=pixels[300 : 300 + held_count])
    result = score(prepare_scorer(Pick("pca"), reference, 60, 0, CPU), pixels[450:510], [], 0)
    assert ("held_out" in result) == is_scored
    assert ("nearest_ratio" in result["scores"]) == is_scored
    message = f"no distance to held-out pictures: {held_count} are too few, it needs 50 or more"
    assert any(message in text for text in result["cautions"]) != is_scored


def test_a_prompt_that_always_gives_one_picture_has_no_diversity(pixels):
    scorer = prepare_scorer(Pick("pca"), Reference("digits", pixels), 100, 0, CPU)
    same, different = pixels[:1].repeat(8, 1, 1, 1), pixels[:8]
    assert score_diversity(scorer, {None: same})["diversity"] < 1e-6
    found = score_diversity(scorer, {None: different})
    assert 0.3 < found["diversity"] < 1.2
    assert 0.3 < found["diversity_real"] < 1.2


def test_few_pictures_are_said_to_be_few(pixels):
    scorer = prepare_scorer(Pick("pca"), Reference("digits", pixels[:60]), 50, 0, CPU)
    said = " ".join(score(scorer, pixels[100:150], [], 0)["cautions"])
    assert "biased" in said
    assert "30 images in each set, not 50" in said


def test_rows_are_repeated_only_after_all_were_taken():
    assert sorted(random_rows(5, 5, 1).tolist()) == list(range(5))
    twelve = random_rows(5, 12, 1).tolist()
    assert sorted(twelve[:10]) == sorted([*range(5), *range(5)])
    assert twelve != random_rows(5, 12, 2).tolist()


def fake(items, seeds):
    return torch.tensor([[s % 251, int(i)] for i, s in zip(items, seeds, strict=True)]).byte()


@pytest.mark.parametrize(("n", "world"), [(21, 2), (3, 2), (64, 3), (1, 4)])
def test_shares_of_any_number_of_processes_are_the_whole(monkeypatch, n, world):
    items, seeds = [i % 10 for i in range(n)], list(range(7, 7 + n))
    alone = sample_shared(fake, items, seeds, batch=4)
    assert torch.equal(alone, fake(items, seeds))
    shares = []

    def gather(mine):
        shares.append(mine)
        return [mine] * world

    monkeypatch.setattr(shared_sampling, "gathered", gather)
    for rank in range(world):
        monkeypatch.setattr(shared_sampling, "place", lambda rank=rank: (rank, world))
        sample_shared(fake, items, seeds, batch=4)
    assert len({len(share) for share in shares}) == 1  # sharded weights are asked equally often
    monkeypatch.setattr(shared_sampling, "gathered", lambda _: shares)
    assert torch.equal(sample_shared(fake, items, seeds, batch=4), alone)


TWO = """
import sys, torch, torch.distributed as dist
from pathline.evaluation.shared_sampling import sample_shared
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
calls = []
def draw(items, seeds):
    calls.append(len(items))
    return torch.tensor(seeds).view(-1, 1, 1, 1).byte()
pixels = sample_shared(draw, [None] * 21, list(range(21)), batch=8)
torch.save((pixels, calls), out + str(rank))
dist.destroy_process_group()
"""


@pytest.mark.slow  # two fresh processes import torch
def test_two_processes_draw_what_one_draws(tmp_path):
    started = [
        subprocess.Popen([sys.executable, "-c", TWO, str(rank), tmp_path / "store", tmp_path / "p"])
        for rank in range(2)
    ]
    assert [each.wait(timeout=120) for each in started] == [0, 0]
    wanted = torch.arange(21).view(-1, 1, 1, 1).byte()
    for rank in range(2):
        pixels, calls = torch.load(tmp_path / f"p{rank}")
        assert torch.equal(pixels, wanted)
        assert calls == [3, 3, 3, 3]  # seven batches: one is drawn twice and counted once
