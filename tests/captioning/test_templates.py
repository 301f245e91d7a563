"""What is asked, and that only an answer that is whole and fit becomes a caption."""

import json

import pytest

from pathline.captioning.templates import (
    TEMPLATES,
    Slot,
    Template,
    build_prompt,
    format_captions,
    load_template,
    opens_badly,
    parse_answer,
)

FLOWER = {"view": "macro shot", "flower": "rose", "petals": "red", "center": "pale",
          "background": "dark", "style": "soft light"}  # fmt: skip
BOTANICAL = TEMPLATES["botanical"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_are_whole(name):
    row = load_template(name)
    assert row.name == name
    assert row.prompt in build_prompt(row)
    assert all(f'"{slot}"' in build_prompt(row, "x") for slot in row.slots)
    assert len({each.digest for each in TEMPLATES.values()}) == len(TEMPLATES)


def test_the_slots_become_a_caption():
    fields = parse_answer(BOTANICAL, json.dumps(FLOWER))
    assert format_captions(BOTANICAL, fields) == (
        "A macro shot of a rose, having red, the center is pale, the background is dark, "
        "soft light.",
    )
    assert parse_answer(BOTANICAL, f"```json\n{json.dumps(FLOWER)}\n```") == fields


def test_anime_gives_tags_and_prose():
    tags = ["1girl", "blue hair", "smile", "outdoors"]
    prose = "A girl with blue hair smiles under a wide sky."
    fields = parse_answer(TEMPLATES["anime"], json.dumps({"tags": tags, "prose": prose}))
    assert format_captions(TEMPLATES["anime"], fields) == (
        "1girl, blue hair, smile, outdoors",
        prose,
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"petals": None}, "petals missing"),
        ({"more": "x"}, "more not requested"),
        ({"petals": ["red"]}, "petals is .*not a text"),
        ({"petals": " "}, "petals is .*not empty"),
        ({"petals": 3}, "petals is 3, not a text"),
        ({"petals": " ".join(map(str, range(25)))}, "petals has 25 words, not 1 to 24"),
        ({"verdict": "match"}, "verdict not requested"),  # without a label
    ],
)
def test_unfit_fields(change, match):
    wrong = {k: v for k, v in {**FLOWER, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=match):
        parse_answer(BOTANICAL, json.dumps(wrong))


def test_a_known_label_is_judged():
    assert "verdict" not in build_prompt(BOTANICAL)
    assert 'filed under "tulip"' in build_prompt(BOTANICAL, "tulip")
    with pytest.raises(ValueError, match="verdict missing"):
        parse_answer(BOTANICAL, json.dumps(FLOWER), "tulip")
    with pytest.raises(ValueError, match="not one of match, correction, ambiguous"):
        parse_answer(BOTANICAL, json.dumps({**FLOWER, "verdict": "yes"}), "tulip")
    assert parse_answer(BOTANICAL, json.dumps({**FLOWER, "verdict": "correction"}), "tulip")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I’m sorry, but I can't help with that picture at all.", "refused"),
        ("As an AI I see nothing in it that I could tell you about.", "refused"),
        ("a red square", "3 words, not 8 to 160"),
        ("a red square and a blue one and " * 5, "repeats"),
    ],
)
def test_prose_that_will_not_do(answer, match):
    with pytest.raises(ValueError, match=match):
        parse_answer(TEMPLATES["general"], answer)


@pytest.mark.parametrize("answer", ["{", "[]", '"x"', "Sure! {}", '```json\n{"view": "x"\n```'])
def test_what_is_no_object(answer):
    with pytest.raises(ValueError, match=r"no JSON|not an object"):
        parse_answer(BOTANICAL, answer)


def test_prose_comes_on_one_line():
    text = "A red square stands\n above a small  blue one."
    assert format_captions(TEMPLATES["general"], parse_answer(TEMPLATES["general"], text)) == (
        "A red square stands above a small blue one.",
    )
    assert opens_badly("The image shows a cat.")
    assert opens_badly("This close-up picture") is False
    assert opens_badly("The picture of a rose depicts love")
    assert not opens_badly("A cat sits.")


def test_own_templates(tmp_path):
    (tmp_path / "mine.txt").write_text("Say it.\n")
    assert load_template(str(tmp_path / "mine.txt")) == Template("mine", "Say it.")
    file = tmp_path / "cats.yaml"
    file.write_text(
        "prompt: Which cat?\ncaptions: ['a {colour} cat', '{words}']\nslots:\n"
        "  colour: {about: of its fur, kind: choice, choices: [black, white]}\n"
        "  words: {about: three words, kind: list, least: 3, most: 3}\n"
    )
    cats = load_template(str(file))
    assert cats.slots["colour"] == Slot("of its fur", "choice", choices=("black", "white"))
    fields = parse_answer(cats, '{"colour": "black", "words": ["a", "b ", "c"]}')
    assert format_captions(cats, fields) == ("a black cat", "a, b, c")
    before = cats.digest
    file.write_text(file.read_text().replace("Which", "What"))
    assert load_template(str(file)).digest != before


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("prompt: x\ncolour: y", "unexpected keyword argument 'colour'.*Its fields are name"),
        ("prompt: x\ncaptions: ['{other}']", "names other; there is answer"),
        ("prompt: ''", "the prompt is empty"),
        ("- a list", "is no template"),
        ("prompt: x\nslots: {a: {about: b, kind: choice}}\ncaptions: ['{a}']", "choices"),
        ("prompt: x\nslots: {a: {about: b, labelled: true}}\ncaptions: ['{a}']", "names a"),
        ("prompt: [", "is no template"),
    ],
)
def test_wrong_templates(tmp_path, text, match):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ValueError, match=match):
        load_template(str(tmp_path / "t.yaml"))


def test_names_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"no template 'botanic'\. Did you mean 'botanical'\?"):
        load_template("botanic")
    with pytest.raises(FileNotFoundError, match="There is no template file"):
        load_template(str(tmp_path / "none.yaml"))
