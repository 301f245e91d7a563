"""Records of captions: merged with what made them, in files that survive a kill."""

import pytest

from pathline.captioning.records import (
    MAKER,
    add_captions,
    append_lines,
    digest_image,
    is_captioned,
    read_lines,
    write_records,
)

MAKERS = [dict.fromkeys(MAKER, name) for name in ("one", "two")]


def line(*captions, maker=0, picture="p"):
    source = {**MAKERS[maker], "picture": picture}
    return {"captions": list(captions), "provenance": [source] * len(captions)}


def test_what_is_made_comes_after_what_a_person_wrote():
    record = add_captions({"file_name": "a", "text": "mine", "label": 1}, line("x", "y"))
    assert record["text"] == "mine"
    assert record["label"] == 1
    assert record["captions"] == ["x", "y"]
    assert is_captioned(record, MAKERS[0], lambda: "p")
    assert not is_captioned(record, MAKERS[0], lambda: "q")
    assert not is_captioned(record, MAKERS[1], lambda: "p")
    more = add_captions(record, line("z", maker=1))
    assert more["captions"] == ["x", "y", "z"]
    assert add_captions(more, line("w"))["captions"] == ["z", "w"]  # the same maker again
    assert add_captions(more, line("w", picture="q"))["captions"] == ["w"]  # another picture by now
    assert add_captions(more, line("w"), replace=True) == {
        "file_name": "a", "label": 1, "text": "w", "captions": ["w"],
        "provenance": line("w")["provenance"]}  # fmt: skip


def test_a_made_text_goes_with_its_picture_and_a_corrected_one_stays():
    record = add_captions({"file_name": "a"}, line("x"))
    assert record["text"] == "x"
    assert add_captions(record, line("y", picture="q"))["text"] == "y"
    corrected = {**record, "text": "x, but better"}
    assert add_captions(corrected, line("y", picture="q"))["text"] == "x, but better"
    assert "text" not in add_captions({"file_name": "a"}, line("x"), has_human=True)
    merged = add_captions({"file_name": "a", "captions": ["own"]}, line("x"))
    assert merged["captions"] == ["own", "x"]
    assert merged["provenance"][0] is None
    assert merged["text"] == "own"


def test_alone_means_that_nothing_else_is_there():
    record = add_captions({"file_name": "a", "text": "mine"}, line("x"))
    assert is_captioned(record, MAKERS[0], lambda: "p")
    assert not is_captioned(record, MAKERS[0], lambda: "p", alone="text")
    beside = add_captions({"file_name": "a"}, line("x"), has_human=True)
    assert not is_captioned(beside, MAKERS[0], lambda: "p", alone="text")
    assert is_captioned(
        add_captions({"file_name": "a"}, line("x")), MAKERS[0], lambda: "p", alone="text"
    )


def test_a_journal_survives_a_torn_line(tmp_path):
    file = tmp_path / "new" / "part.jsonl"
    append_lines(file, [{"n": 1, "text": "ö\u2028"}])
    with file.open("ab") as out:
        out.write(b'{"n": 2, "te')
    append_lines(file, [{"n": 3}, {"n": 4}])
    assert [x["n"] for x in read_lines(file)] == [1, 3, 4]
    assert list(read_lines(tmp_path / "none.jsonl")) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "metadata.jsonl"
    write_records(file, [{"n": 1}])
    with pytest.raises(TypeError):
        write_records(file, [{"n": 2}, {"n": object()}])
    assert file.read_text() == '{"n": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.jsonl"]


def test_a_digest_tells_contents_apart():
    assert digest_image(b"a") == digest_image(b"a") != digest_image(b"b")
