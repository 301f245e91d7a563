"""Labels and learned words as conditions."""

import pytest
import torch

from pathline.config.pick import function_of
from pathline.text.labels import labels, none
from pathline.text.learned import split, vocabulary, words
from pathline.text.table import TEXTS
from pathline.types import Facts

CAPTIONS = ["a red circle", "a blue square left of a red circle", None]
WORDS = Facts(3, 8, 8, words=vocabulary(CAPTIONS))
CLASSES = Facts(1, 8, 8, names=("cat", "dog", "frog"))


def test_the_mask_is_as_long_as_the_caption():
    cond = words(WORDS).encode(CAPTIONS)
    assert cond.mask.sum(1).tolist() == [3, 8, 1]
    assert cond.words.shape == (3, 8)


def test_nothing_asked_is_the_null_in_training_and_in_sampling():
    for text in (words(WORDS), labels(CLASSES)):
        for nothing in (None, ""):
            for mine, null in zip(text.encode([nothing]), text.null, strict=True):
                assert (mine is None and null is None) or torch.equal(mine, null)


def test_padding_changes_no_word():
    text = words(WORDS)
    alone, beside = text.encode(CAPTIONS[:1]).words, text.encode(CAPTIONS).words
    assert torch.equal(alone[0], beside[0, :3])


def test_words_are_found_whatever_their_case():
    assert split("A red, Circle") == ["a", "red", ",", "circle"]
    text = words(WORDS)
    assert torch.equal(text.encode(["A Red CIRCLE"]).words, text.encode(["a red circle"]).words)


def test_an_unseen_word_is_skipped_with_a_warning_that_names_it():
    text = words(WORDS)
    with pytest.warns(UserWarning, match=r"skipped 'circel' of .*'a red circel'.*Near.*circle"):
        cond = text.encode(["a red circel"])
    assert torch.equal(cond.words, text.encode(["a red"]).words)
    text.encode(["a red circel"])  # a word is named once; a second warning would fail here


def test_a_prompt_of_unseen_words_alone_is_refused():
    with pytest.raises(ValueError, match=r"No word of the prompt 'zebra xylophone'.*text=encoder"):
        words(WORDS).encode(["a red circle", "zebra xylophone"])


def test_a_long_caption_is_refused_with_the_setting_to_raise():
    with pytest.raises(ValueError, match=r"8 words.*text.length=8"):
        words(WORDS, length=4).encode(CAPTIONS)


def test_the_learned_encoder_gives_states_of_its_width():
    text = words(WORDS, width=24)
    cond = text.encode(CAPTIONS)
    assert text.module(cond.words, cond.mask).shape == (3, 8, 24)


def test_padding_changes_no_state():
    text = words(WORDS)
    alone, beside = text.encode(CAPTIONS[:1]), text.encode(CAPTIONS)
    short, padded = (text.module(cond.words, cond.mask) for cond in (alone, beside))
    torch.testing.assert_close(short[0], padded[0, :3])


def test_labels_by_number_and_by_name():
    text = labels(CLASSES)
    assert text.encode([0, "dog", "2", None]).labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("item", [3, -1, "7", "-1"])
def test_a_label_out_of_range_names_the_range(item):
    with pytest.raises(ValueError, match="0 … 2"):
        labels(CLASSES).encode([item])


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'frog'.*text=words.*text=encoder"):
        labels(CLASSES).encode(["froq"])


def test_a_class_called_by_a_number_is_itself():
    """Folders 1 … 12 are numbered by the alphabet: 1, 10, 11, 12, 2 …"""
    names = tuple(sorted(map(str, range(1, 13))))
    text = labels(CLASSES._replace(names=names))
    asked = ["2", "10", 2, "12"]
    assert [names[i] for i in text.encode(asked).labels.tolist()] == ["2", "10", "11", "12"]
    assert text.encode(["0"]).labels.tolist() == [0]  # no class is called so: the first one


def test_names_that_differ_in_case_are_told_apart():
    text = labels(CLASSES._replace(names=("Bass", "Trout", "bass")))
    assert text.encode(["Bass", "bass", "trout"]).labels.tolist() == [0, 2, 1]
    for unclear in ("BASS", "²"):
        with pytest.raises(ValueError, match="There is no class"):
            text.encode([unclear])


@pytest.mark.parametrize("row", ["words", "labels"])
def test_data_without_words_or_classes_is_refused(row):
    with pytest.raises(ValueError, match=f"text={row} .*has no"):
        function_of(TEXTS[row])(Facts(3, 8, 8))


def test_an_unconditional_run_takes_no_prompt():
    text = none(Facts(3, 8, 8))
    assert text.encode([None, ""]) == text.null
    with pytest.raises(ValueError, match=r"trained without captions.*caption FOLDER.*text=encoder"):
        text.encode(["a cat"])
