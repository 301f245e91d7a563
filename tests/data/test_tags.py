"""Tag lists at load: what stays, what moves, what goes, and that nothing hangs on anything else."""

from collections import Counter

import pytest

from pathline.data.tags import arrange, is_tags, rank, spaced, split

TAGS = "1girl, hatsune_miku, blue_hair, long_hair, smile, ^_^, outdoors, masterpiece"


def test_splitting():
    assert split("a,  b c ,, a, d") == ["a", "b c", "d"]
    assert split("1girl blue_hair  blue_hair solo") == ["1girl", "blue_hair", "solo"]
    assert split(" , ") == []


@pytest.mark.parametrize("caption", [TAGS, "1girl blue_hair long_hair solo", "a, b, c"])
def test_lists_of_tags_are_known(caption):
    assert is_tags(caption)


@pytest.mark.parametrize(
    "caption",
    ["A macro shot of a bellflower, having purple, bell-shaped petals with smooth edges, the "
     "center is pale.", "a red square", "A cat, a dog, a mouse.", "", "red"],
)  # fmt: skip
def test_sentences_are_left_alone(caption):
    assert not is_tags(caption)
    assert arrange(caption, 0, 0, shuffle=True, dropout=1.0) == caption


def test_underscores():
    assert spaced("long_hair") == "long hair"
    assert spaced("red_hat") == "red hat"
    assert spaced("^_^") == "^_^"
    assert spaced("o_o") == "o_o"
    assert arrange(TAGS, 0, 0).startswith("1girl, hatsune miku, blue hair")
    assert arrange(TAGS, 0, 0, underscores="keep") == TAGS
    assert arrange("a_b c_d", 0, 0, separator=" | ") == "a b | c d"


def test_order():
    mixed = "masterpiece, smile, rating:general, artist:someone, copyright:vocaloid, "
    mixed += "character:miku, 1girl, hat"
    assert arrange(mixed, 0, 0, order="danbooru") == (
        "1girl, character:miku, copyright:vocaloid, artist:someone, smile, hat, masterpiece, "
        "rating:general"
    )
    assert [rank(tag) for tag in ("2boys", "6+girls", "multiple_girls", "solo", "no humans")] == [
        0] * 5  # fmt: skip
    assert [rank(tag) for tag in ("best quality", "highres", "safe", "girl's hat")] == [5, 5, 6, 4]


def test_shuffling_is_a_function_of_seed_epoch_and_row():
    def drawn(row=3, epoch=2, seed=1, tags=TAGS):
        return split(arrange(tags, row, epoch, seed=seed, shuffle=True, keep=2))

    assert drawn() == drawn()
    assert sorted(drawn()) == sorted(map(spaced, split(TAGS)))
    assert drawn()[:2] == ["1girl", "hatsune miku"]
    others = [drawn(row=4), drawn(epoch=3), drawn(seed=2)]
    assert drawn() not in others
    assert len({tuple(tags) for tags in others}) == 3
    more = [tag for tag in drawn(tags=TAGS + ", wind") if tag != "wind"]
    assert more == drawn()  # a further tag moves none of the others


def test_every_order_is_as_likely():
    found = Counter(
        arrange("x, a, b, c", row, epoch, shuffle=True) for row in range(30) for epoch in range(40)
    )
    assert len(found) == 6
    assert all(150 <= times <= 250 for times in found.values())


def test_dropout():
    kept = [split(arrange(TAGS, row, 0, dropout=0.3, keep=2)) for row in range(800)]
    assert all(tags[:2] == ["1girl", "hatsune miku"] for tags in kept)
    share = sum(len(tags) - 2 for tags in kept) / (800 * 6)
    assert abs(share - 0.7) < 0.025
    assert split(arrange(TAGS, 0, 0, dropout=1.0, keep=3)) == ["1girl", "hatsune miku", "blue hair"]
    assert arrange(TAGS, 0, 0, dropout=1.0, keep=0) == "1girl"
    assert arrange(TAGS, 0, 0, dropout=0.0) == arrange(TAGS, 9, 9)


def test_dropping_and_shuffling_have_chances_of_their_own():
    """What is dropped in a row must say nothing of where the rest comes to stand."""
    given = {"shuffle": True, "keep": 0, "dropout": 0.5, "underscores": "keep"}
    found = Counter(split(arrange(TAGS, row, 0, **given))[0] for row in range(2000))
    assert len(found) == 8
    assert max(found.values()) < 1.4 * min(found.values())


@pytest.mark.parametrize("wrong", [{"dropout": 1.5}, {"keep": -1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match="wanted a share"):
        arrange(TAGS, 0, 0, **wrong)
