"""Own folders as people have them: metadata, side-cars, classes, splits; and their faults."""

import json

import pytest

from pathline.data.sources.folder import folder


@pytest.fixture
def make(tmp_path, png):
    """make({name: text, or None for a picture}) -> the folder."""

    def made(files):
        for number, (name, text) in enumerate(files.items()):
            file = tmp_path / "set" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.write_bytes(png((number, 0, 0)))
            else:
                file.write_text(text)
        return tmp_path / "set"

    return made


def lines(*records):
    return "\n".join(json.dumps(record) for record in records)


def told(source):
    """key -> (caption, class name)."""
    found = [source.read(row) for row in range(source.count)]
    names = source.names
    return {e.key: (e.caption, names[e.label] if e.label is not None else None) for e in found}


def test_metadata_gives_captions_and_unnamed_pictures_none(make):
    text = lines(
        {"file_name": "b.png", "text": " two\nlines "}, {"file_name": "sub/a.png", "text": ""}
    )
    source = folder(
        path=make({"b.png": None, "sub/a.png": None, "c.PNG": None, "metadata.jsonl": text})
    )
    assert told(source) == {
        "b.png": ("two lines", None),
        "c.PNG": (None, None),
        "sub/a.png": (None, None),
    }
    assert source.captioned
    assert source.names == ()
    first = source.read(0)
    assert first.image.shape == (3, 10, 12)
    assert first.image[0, 0, 0] == 0


def test_rows_are_sorted_and_a_picture_of_several_captions_is_several_rows(make):
    text = lines(
        *({"file_name": n, "text": t} for n, t in (("b.png", "1"), ("a.png", "2"), ("b.png", "3")))
    )
    source = folder(path=make({"b.png": None, "a.png": None, "metadata.jsonl": text}))
    assert list(told(source).items()) == [
        ("a.png", ("2", None)),
        ("b.png", ("1", None)),
        ("b.png#2", ("3", None)),
    ]


def test_side_cars_are_shared_by_a_stem_unless_one_has_its_own(make):
    source = folder(path=make({"a.png": None, "a.jpg": None, "b.png": None, "c.png": None,
                               "a.txt": "both", "b.txt": "stem", "b.png.txt": "own"}))  # fmt: skip
    assert {k: v[0] for k, v in told(source).items()} == {
        "a.jpg": "both", "a.png": "both", "b.png": "own", "c.png": None}  # fmt: skip


def test_metadata_goes_before_side_cars_and_labels_may_be_words_or_numbers(make):
    text = lines(
        {"file_name": "a.png", "text": "said", "label": "cat"},
        {"file_name": "b.png", "label": "ant"},
    )
    source = folder(
        path=make(
            {"a.png": None, "b.png": None, "a.txt": "x", "b.txt": "y", "metadata.jsonl": text}
        )
    )
    assert told(source) == {"a.png": ("said", "cat"), "b.png": ("y", "ant")}
    assert source.names == ("ant", "cat")
    (source_path := make({})).joinpath("metadata.jsonl").write_text(
        lines({"file_name": "a.png", "label": 2}, {"file_name": "b.png", "label": 0})
    )
    assert folder(path=source_path).names == ("0", "1", "2")


def test_class_folders(make):
    root = make({"dog/1.png": None, "cat/1.png": None, "cat/2.png": None, "cat/2.txt": "a cat"})
    assert told(folder(path=root)) == {
        "cat/1.png": (None, "cat"),
        "cat/2.png": ("a cat", "cat"),
        "dog/1.png": (None, "dog"),
    }
    make({"loose.png": None})
    assert folder(path=root).names == ()  # no longer a folder of classes


def test_a_link_back_is_not_followed(make):
    root = make({"cat/1.png": None})
    (root / "cat" / "again").symlink_to(root)
    assert folder(path=root).count == 1


def test_splits_that_differ_in_case_are_refused(make):
    root = make({"Train/1.png": None})
    assert folder(path=root, split="Train").count == 1
    (root / "train").mkdir(exist_ok=True)
    if len(list(root.iterdir())) == 2:  # not on a disk that takes them for one
        with pytest.raises(ValueError, match="are one split by name"):
            folder(path=root)


def test_half_a_character_becomes_a_question_mark(make):
    text = lines({"file_name": "a.png", "text": "a heart \ud83d"})
    root = make({"a.png": None, "metadata.jsonl": text})
    assert told(folder(path=root)) == {"a.png": ("a heart ?", None)}


def test_a_caption_may_be_a_list_in_some_lines(make):
    text = lines(
        {"file_name": "a.png", "text": "one"}, {"file_name": "b.png", "text": ["two", "zwei"]}
    )
    source = folder(path=make({"a.png": None, "b.png": None, "metadata.jsonl": text}))
    assert [source.read(row).captions for row in (0, 1)] == [("one",), ("two", "zwei")]


def test_split_folders(make):
    root = make({"train/a/1.png": None, "train/b/1.png": None, "test/a/1.png": None})
    assert told(folder(path=root)) == {"a/1.png": (None, "a"), "b/1.png": (None, "b")}
    assert folder(path=root, split="test").count == 1
    with pytest.raises(ValueError, match="no split 'val'; its sub-folders are test, train"):
        folder(path=root, split="val")


def test_the_fields_can_be_chosen(make):
    text = lines({"file_name": "a.png", "text": "1", "prompt": "2", "note": "3"})
    root = make({"a.png": None, "metadata.jsonl": text})
    with pytest.raises(
        ValueError, match="caption could be any of text, prompt; choose by caption="
    ):
        folder(path=root)
    assert told(folder(path=root, caption="note")) == {"a.png": ("3", None)}
    with pytest.raises(
        ValueError, match=r"caption='title' is not there.*columns are.*note \(text\)"
    ):
        folder(path=root, caption="title")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2 is no JSON"),
        ('{"text": "x"}', 'line 2 has no "file_name"'),
        ("[1]", 'line 2 has no "file_name"'),
        ('{"file_name": "../a.png"}', "line 2 leads out of its folder"),
        ('{"file_name": "/etc/passwd"}', "line 2 leads out of its folder"),
    ],
)
def test_wrong_metadata_is_named_by_line(make, line, complaint):
    root = make({"a.png": None, "metadata.jsonl": lines({"file_name": "a.png"}) + "\n" + line})
    with pytest.raises(ValueError, match=complaint):
        folder(path=root)


def test_a_line_without_its_picture_is_a_row_that_cannot_be_read(make):
    text = lines({"file_name": "a.png", "text": "1"}, {"file_name": "gone.png", "text": "2"})
    source = folder(path=make({"a.png": None, "metadata.jsonl": text}))
    assert source.count == 2
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        source.read(1)


def test_changes_on_disk_are_seen_at_once(make, png):
    root = make({"a.png": None, "a.txt": "old"})
    assert told(folder(path=root)) == {"a.png": ("old", None)}
    (root / "a.txt").write_text("new")
    (root / "a.png").write_bytes(png((9, 8, 7)))
    source = folder(path=root)
    assert source.read(0).caption == "new"
    assert source.read(0).image[:, 0, 0].tolist() == [9, 8, 7]


def test_missing_empty_and_pictureless_folders(make, tmp_path):
    root = make({"notes.md": "hello"})
    with pytest.raises(
        ValueError, match=r"holds no picture, such as .* It holds files of other kinds: notes\.md"
    ):
        folder(path=root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="It holds nothing: it is empty"):
        folder(path=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"there is no .*emptyy; next to it are empty, set"):
        folder(path=tmp_path / "emptyy")
    with pytest.raises(ValueError, match="is a file"):
        folder(path=root / "notes.md")


def test_hidden_files_are_passed_by(make):
    assert folder(path=make({"a.png": None, ".b.png": None, ".cache/c.png": None})).count == 1
