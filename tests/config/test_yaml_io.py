"""YAML with the line of every key, and back."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pathline.config.yaml_io import read_file, read_value, write

BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(12))


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return [(e.key, e.value, e.origin.rpartition(":")[2]) for e in read_file(path)]

    return read


def test_every_key_has_its_line(read):
    text = "seed: 1\n\ntrain:\n  batch: 1e3  # whole\n  ema: [0.9, 1e-1]\ndata.size: 8\nname: '3'\n"
    assert read(text) == [
        ("seed", 1, "1"),
        ("train", {}, "3"),
        ("train.batch", 1000.0, "4"),
        ("train.ema", [0.9, 0.1], "5"),
        ("data.size", 8, "6"),
        ("name", "3", "7"),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_key(read):
    assert read("\ufeffseed: 1\n") == [("seed", 1, "1")]


def test_aliases_are_read(read):
    assert read("a: &x {b: 1}\nc: *x\n")[-1] == ("c.b", 1, "1")


def test_origin_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n")
    assert read_file(path)[0].origin == f"{path}:1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "a settings file is a mapping"),
        ("just words\n", "a settings file is a mapping"),
        ("a: 1\nb: [1, 2\n", r"mine.yaml:\d+: this is no valid YAML"),
        ("a: 1\n  b: 2\n", r"mine.yaml:2: this is no valid YAML"),
        ("a: 1\n\tb: 2\n", r"mine.yaml:2: this is no valid YAML"),
        ("seed: 1\nseed: 2\n", r"mine.yaml:2: seed is set twice, first at .*mine.yaml:1"),
        ("train: {batch: 1}\ntrain.batch: 2\n", r"mine.yaml:2: train.batch is set twice"),
        ("? [a, b]\n: 1\n", "a key must be a word"),
        ("a: &x\n  b: *x\n", "repeats itself without end"),
        ("a: &x [*x]\n", "repeats itself without end"),
        (b"name: \xff\xfe\n", "mine.yaml:1: this is no text in UTF-8. Save it as UTF-8"),
        ("seed: 1\nname: für\n".encode("latin-1"), "mine.yaml:2: this is no text in UTF-8"),
        ("seed: 1\n".encode("utf-16"), "mine.yaml is text in UTF-16 or UTF-32. Save it as UTF-8"),
        ("a: " + "[" * 10_000, "mine.yaml: this is nested too deep for settings"),
        ("a: " + "{a: " * 20 + "1" + "}" * 20, "mine.yaml:1: a.* is nested too deep"),
        ("a: " + "[" * 20 + "]" * 20, "mine.yaml:1: a: line 1: this is nested too deep"),
        (BOMB, "it has more than 10000 values"),
        ("a: [{b: 1, b: 2}]\n", "mine.yaml:1: a: b is set twice"),
        (b"# 1\n" * 300_000, "mine.yaml is no settings file: it has more than"),
        ("a: \x00\n", "mine.yaml: this is no valid YAML"),
        ("a: 1\n---\nb: 2\n", r"mine.yaml:2: this is no valid YAML"),
    ],
)
def test_bad_files(read, text, said):
    with pytest.raises(ValueError, match=said):
        read(text)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no settings file .*no\.yaml"):
        read_file(tmp_path / "no.yaml")
    with pytest.raises(FileNotFoundError, match="is a folder, not a settings file"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("[1, 1e-1]", [1, 0.1]),
        ("{mse: 1, huber: {delta: 2}}", {"mse": 1, "huber": {"delta": 2}}),
        ("'1e3'", "1e3"),
        ('"no"', "no"),
        ("[1, ", "[1, "),
        ("a: b", "a: b"),
    ],
)
def test_values_of_the_command_line(text, value):
    assert read_value(text) == value


def test_notes():
    text = write({"a": {"b": 1}, "c": [1, 2], "e": {}}, {"a.b": "here", "c": "there"})
    assert [line.split() for line in text.splitlines()] == [
        ["a:"],
        ["b:", "1", "#", "here"],
        ["c:", "[1,", "2]", "#", "there"],
        ["e:", "{}"],
    ]


scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.text(max_size=30)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["1e3", "no", "null", "~", "0x1F", "a: b", "# c", "- d", "'e", "[f", "1:30", "…"]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.one_of(scalars, st.lists(scalars, max_size=3))))
def test_what_is_written_is_read_again(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text(write(tree or {"a": 1}), encoding="utf-8")
    assert {e.key: e.value for e in read_file(path)} == (tree or {"a": 1})
    yaml.safe_load(path.read_text(encoding="utf-8"))  # others can read it too
