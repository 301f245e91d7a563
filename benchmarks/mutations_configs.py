"""Mutated settings files and overrides: what is wrong is refused, what is right is never lost.

Each case takes a preset and writes a file of some of its settings, then changes the file. The
oracle: every value that YAML reads in the file stands in what `config show` prints, or the command
exits 2. What means nothing (a comment, a byte-order mark, an empty section) must be accepted. Some
cases go on to train one update of a tiny network.
"""

import random
import string
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mutations import Answer, Case

from pathline.config.layers import flatten, to_tree
from pathline.config.resolve import PRESETS, fill
from pathline.config.yaml_io import write
from pathline.tables import TABLES

FILE = "mine.yaml"
NUMBERS = (-1, 0, 1, 2, 0.5, -0.5, 1.5, 1e9, -1e9, 2**63, 2**70, 1e-9, 3.0, 10**30)
WORDS = (
    *("nan", "inf", "-inf", ".nan", ".inf", "1e999", "true", "null", "~", "''", "text", "0x10"),
    *("[]", "{}", "[1, 2]", "{a: 1}", "[null]", "1_0", "007", "1:30", "2024-01-01", "é", "auto"),
)
TINY = (
    *("train.updates=1", "train.batch=2", "train.accumulate=1", "train.save_every=1"),
    *("train.validate_every=0", "train.sample_every=0", "train.probe_every=0", "eval.every=0"),
    *("train.strategy=none", "train.compile=false", "sample.batch=2", "sample.count=2"),
)


class Text(NamedTuple):
    """A changed settings file."""

    data: bytes
    detail: str
    wants: str = ""  # "accepted" or "refused", where that is known; else the oracle decides


def prepare(shared: Path) -> None:
    """Nothing is shared."""


def settings_of(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A preset and some of its settings with their values, as a tree."""
    name = rng.choice(sorted(name for name in PRESETS if not name.startswith("own")))
    values = flatten(to_tree(fill(PRESETS[name], TABLES)))
    leaves = {
        key: str(value) if isinstance(value, Path) else value for key, value in values.items()
    }
    chosen = rng.sample(sorted(leaves), k=rng.randint(2, 12))
    # an option is written with its row, as a person would
    rows = {key.rpartition(".")[0] + ".name" for key in chosen} & leaves.keys()
    tree: dict[str, Any] = {}
    for key in sorted({*chosen, *rows}):
        tree = merge_leaf(tree, key, leaves[key])
    return name, tree


def merge_leaf(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The tree with one more leaf."""
    first, _, rest = key.partition(".")
    below = tree.get(first, {})
    return {**tree, first: merge_leaf(below, rest, value) if rest else value}


# Changes of a tree -------------------------------------------------------------------------------


def a_value(rng: random.Random, tree: dict[str, Any]) -> Text:
    """Another value at a key: of another type, out of range, or a fine one."""
    key = rng.choice(sorted(flatten(tree)))
    value = rng.choice([*NUMBERS, *WORDS])
    marker = "PLACE-OF-THE-VALUE"
    text = write(merge_leaf(tree, key, marker)).replace(marker, str(value))
    return Text(text.encode(), f"{key}: {value}")


def misspell(rng: random.Random, word: str) -> str:
    """A word with a letter doubled, dropped, replaced or two of them swapped."""
    place = rng.randrange(len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    swapped = before + after[:1] + letter + after[1:]
    other = rng.choice(string.ascii_lowercase)
    return rng.choice(
        [before + 2 * letter + after, before + after, before + other + after, swapped]
    )


def a_misspelt_key(rng: random.Random, tree: dict[str, Any]) -> Text:
    key = rng.choice(sorted(flatten(tree)))
    parts = key.split(".")
    place = rng.randrange(len(parts))
    parts[place] = misspell(rng, parts[place])
    leaves = {".".join(parts) if k == key else k: v for k, v in flatten(tree).items()}
    renamed: dict[str, Any] = {}
    for name, value in leaves.items():
        if name and not name.startswith(".") and ".." not in name and not name.endswith("."):
            renamed = put(renamed, name, value)
    return Text(write(renamed).encode(), f"{key} as {'.'.join(parts)}")


def put(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """As merge_leaf, where a leaf may stand in the way of a section."""
    first, _, rest = key.partition(".")
    below = tree.get(first, {})
    below = below if isinstance(below, dict) else {}
    return {**tree, first: put(below, rest, value) if rest else value}


def an_unknown_section(rng: random.Random, tree: dict[str, Any]) -> Text:
    name = "".join(rng.choices(string.ascii_lowercase, k=6))
    value = rng.choice([{}, {"a": 1}, None, [1], "text", 3])
    refused = "refused" if value not in ({}, None) else ""
    return Text(write({**tree, name: value}).encode(), f"{name}: {value}", refused)


def a_row(rng: random.Random, tree: dict[str, Any]) -> Text:
    """Another row, with or without the options of the former."""
    place = rng.choice([place for place in TABLES if place != "terms"])
    row = rng.choice([*TABLES[place], "auto", misspell(rng, rng.choice([*TABLES[place]]))])
    leaves = {key: value for key, value in flatten(tree).items() if not key.startswith(place)}
    changed: dict[str, Any] = {}
    for key, value in leaves.items():
        changed = put(changed, key, value)
    return Text(write(put(changed, f"{place}.name", row)).encode(), f"{place}={row}")


def an_empty_section(rng: random.Random, tree: dict[str, Any]) -> Text:
    """A section whose lines are all commented out, which says nothing."""
    sections = [key for key in to_tree(PRESETS["debug"]) if key not in tree]
    sections = [key for key in sections if isinstance(to_tree(PRESETS["debug"])[key], dict)]
    if not sections:
        return Text(write(tree).encode(), "none is free", "accepted")
    name = rng.choice(sections)
    empty = rng.choice(
        [f"{name}:\n  # a: 1\n", f"{name}: {{}}\n", f"{name}: null\n", f"{name}: ~\n"]
    )
    return Text((write(tree) + empty).encode(), repr(empty), "accepted")


def a_section_of_another_kind(rng: random.Random, tree: dict[str, Any]) -> Text:
    name = rng.choice(["train", "data", "sample", "eval", "about", "data.buckets", "data.tags"])
    value = rng.choice(["[1, 2]", "[]", "3", "text", "true", "[{batch: 3}]"])
    text = write({key: v for key, v in tree.items() if key != name.partition(".")[0]})
    return Text((f"{text}{name}: {value}\n").encode(), f"{name}: {value}", "refused")


# Changes of the text -----------------------------------------------------------------------------


def harmless(rng: random.Random, tree: dict[str, Any]) -> Text:
    """What means nothing in YAML."""
    text = write(tree)
    match rng.choice(["bom", "crlf", "comments", "document", "flow", "dotted", "quoted", "blank"]):
        case "bom":
            return Text(b"\xef\xbb\xbf" + text.encode(), "a byte-order mark", "accepted")
        case "crlf":
            return Text(text.replace("\n", "\r\n").encode(), "CRLF", "accepted")
        case "comments":
            lines = [line + " # text: [" for line in text.splitlines()]
            return Text("\n# é\n".join(lines).encode(), "comments", "accepted")
        case "document":
            return Text(f"---\n{text}...\n".encode(), "document marks", "accepted")
        case "flow":
            style: dict[str, Any] = {
                "default_flow_style": True,
                "sort_keys": False,
                "allow_unicode": True,
            }
            return Text(yaml.safe_dump(tree, **style).encode(), "flow style", "accepted")
        case "dotted":
            lines = [write({key: value}) for key, value in flatten(tree).items()]
            rng.shuffle(lines)
            return Text("".join(lines).encode(), "dotted keys, shuffled", "accepted")
        case "quoted":
            style = {"default_style": '"', "sort_keys": False}
            return Text(yaml.dump(tree, **style).encode(), "quoted keys")
    return Text(f"\n\n{text}\n\n".encode(), "blank lines", "accepted")


def an_edit(rng: random.Random, tree: dict[str, Any]) -> Text:
    """Characters deleted, inserted, or a line cut, doubled, moved or indented."""
    text = write(tree)
    place = rng.randrange(len(text))
    lines = text.splitlines(keepends=True)
    line = rng.randrange(len(lines))
    symbol = rng.choice("{}[]:,#&*!|>'\"%@`\t -?~\x00\u2028é\\")
    edits = {
        "delete": lambda: text[:place] + text[place + rng.randint(1, 5) :],
        "insert": lambda: text[:place] + symbol + text[place:],
        "cut": lambda: text[:place],
        "repeat a line": lambda: "".join([*lines[: line + 1], *lines[line:]]),
        "drop a line": lambda: "".join([*lines[:line], *lines[line + 1 :]]),
        "indent a line": lambda: "".join([*lines[:line], f"  {lines[line]}", *lines[line + 1 :]]),
        "shuffle lines": lambda: "".join(rng.sample(lines, len(lines))),
    }
    name = rng.choice(sorted(edits))
    return Text(edits[name]().encode(), f"{name} at {place} or line {line + 1}, {symbol!r}")


def another_encoding(rng: random.Random, tree: dict[str, Any]) -> Text:
    text = write({**tree, "about": {"purpose": rng.choice(["naïve", "für Bilder", "画像"])}})
    encoding = rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "shift-jis", "cp1252"])
    return Text(text.encode(encoding, errors="replace"), encoding)


def garbage(rng: random.Random, tree: dict[str, Any]) -> Text:
    """What is no settings file at all, and files that try to be expensive."""
    del tree  # nothing of it is left
    deep = rng.choice([100, 2000, 100_000])
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    texts = {
        "empty": b"",
        "spaces": b"  \n\n",
        "bytes": rng.randbytes(200),
        "deep list": b"train: " + b"[" * deep + b"]" * deep,
        "deep mapping": b"{a: " * deep + b"1" + b"}" * deep,
        "deep blocks": "\n".join(f"{'  ' * i}a{i}:" for i in range(min(deep, 2000))).encode(),
        "aliases": "\n".join(bomb).encode(),
        "alias sections": b"a: &a {b: 1}\ntrain: *a\n",
        "merge key": b"x: &x {batch: 3}\ntrain:\n  <<: *x\n",
        "itself": b"train: &t\n  a: *t\n",
        "tag": b"train: !!python/object/apply:os.system ['true']\n",
        "own tag": b"seed: !seed 3\n",
        "list": b"- 1\n- 2\n",
        "two documents": b"seed: 1\n---\nseed: 2\n",
        "a number": b"3\n",
        "JSON": b'{"seed": 3, "train": {"batch": 4}}',
        "digits": b"seed: " + b"9" * 5000,
        "long key": b"a" * 100_000 + b": 1\n",
        "null key": b"null: 1\n? \n: 2\n",
        "a list as key": b"? [a, b]\n: 1\n",
    }
    name = rng.choice(sorted(texts))
    return Text(texts[name], f"{name}{deep if 'deep' in name else ''}")


CHANGES: dict[str, Callable[[random.Random, dict[str, Any]], Text]] = {
    "a value": a_value,
    "a misspelt key": a_misspelt_key,
    "an unknown section": an_unknown_section,
    "a row": a_row,
    "an empty section": an_empty_section,
    "a section of another kind": a_section_of_another_kind,
    "harmless": harmless,
    "an edit": an_edit,
    "another encoding": another_encoding,
    "garbage": garbage,
    "an override": a_value,
}
WEIGHTS = {"a value": 5, "an override": 3, "an edit": 3, "a row": 2, "harmless": 2}


def mutate(rng: random.Random, shared: Path, folder: Path) -> Case:
    """A settings file with one change, and the commands that read it."""
    del shared
    preset, tree = settings_of(rng)
    change = rng.choices([*CHANGES], [WEIGHTS.get(name, 1) for name in CHANGES])[0]
    text = CHANGES[change](rng, tree)
    (folder / FILE).write_bytes(text.data)
    if change == "an override":
        layers = [preset, text.detail.replace(": ", "=", 1)]
    else:
        layers = [preset, "--config", FILE]
    commands = [["config", "show", *layers]]
    if rng.random() < 0.33 and preset in ("debug", "digits"):
        commands.append(["train", *layers, *TINY])
    judge = partial(judged, text, values=leaves_of(text, change))
    return Case(change, f"{preset} with {text.detail}", commands, judge)


def leaves_of(text: Text, change: str) -> dict[str, str]:
    """Every value in the file or override as text; empty where YAML cannot read it."""
    if change == "an override":
        key, _, value = text.detail.partition(": ")
        return {key: value}
    try:
        tree = yaml.load(text.data.decode("utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        return {}
    return flatten(tree) if isinstance(tree, dict) else {}


def judged(text: Text, answers: list[Answer], *, values: Mapping[str, str]) -> str:
    """What is wrong with the answers to a file, in a sentence; "" if nothing."""
    first = answers[0]
    if text.wants == "accepted" and first.code:
        return "It is refused, though nothing in it is wrong."
    if first.code:
        return "" if blames(first.text) else "The message names neither file, line nor setting."
    if text.wants == "refused":
        return "It is accepted, though it is wrong."
    shown = flatten(yaml.load(first.text, Loader=yaml.BaseLoader))
    lost = [key for key, value in values.items() if not stands(key, value, shown)]
    return f"Lost without a word: {', '.join(lost)}." if lost else ""


def blames(text: str) -> bool:
    return any(mark in text for mark in (FILE, "command line", "=", "preset "))


def stands(key: str, value: Any, shown: Mapping[str, Any]) -> bool:
    """Whether a value of the file is what `config show` prints; an empty section says nothing."""
    if value in ("", {}, "null", "~") and (key not in shown or shown[key] in ("null", "")):
        return True
    for name in (key, f"{key}.name", f"{key}.weight"):
        if name in shown and plain(shown[name]) == plain(value):
            return True
    return value in ("", {}, "null", "~") and any(name.startswith(f"{key}.") for name in shown)


def plain(value: Any) -> Any:
    """A value such that 1e-4 equals 0.0001, [1] equals 1 and True equals on."""
    if isinstance(value, list):
        return plain(value[0]) if len(value) == 1 else [plain(part) for part in value]
    words = {
        "on": "true",
        "yes": "true",
        "off": "false",
        "no": "false",
        "~": "null",
        "none": "null",
    }
    try:
        return float(value)
    except (TypeError, ValueError):
        return words.get(str(value).lower(), str(value))
