"""What a captioning model is asked, and how its answer is checked: nothing is ever filled in.

A template without slots asks for prose; one with slots asks for a JSON object, and its captions are
made of the slots.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import yaml

from pathline.hints import nearest

REFUSALS = ("i'm sorry", "i am sorry", "i cannot", "i can't", "i'm unable", "as an ai")
OPENINGS = re.compile(r"(the|this) (image|picture|photo)\b[^.]{0,24}\b(shows|depicts|features)\b")
GRAM, MOST_GRAMS = 4, 3  # so many words in a row may come so often


@dataclass(frozen=True)
class Slot:
    """One field of the JSON answer. least, most: words of a text, items of a list."""

    about: str
    kind: Literal["text", "list", "choice"] = "text"
    least: int = 1
    most: int = 24
    choices: tuple[str, ...] = ()
    labelled: bool = False  # asked only of pictures whose class is known


@dataclass(frozen=True)
class Template:
    """A question. captions: made of an answer, in order; `{answer}` is prose, `{name}` a slot."""

    name: str
    prompt: str
    captions: tuple[str, ...] = ("{answer}",)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    least: int = 1  # words of prose
    most: int = 400

    @property
    def digest(self) -> str:
        """Changes with anything that can change a caption."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]


def template(name: str) -> Template:
    """A row of TEMPLATES, or a file: .yaml or .json with the fields of `Template`, .txt a prompt.

    Raises ValueError for what is neither, or a file with unknown or unfit fields.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml", ".json", ".txt"):
        hint = nearest(name, TEMPLATES)
        raise ValueError(
            f"There is no template {name!r}.{hint} There are: {', '.join(TEMPLATES)}; "
            "or give a .yaml, .json or .txt file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no template file {path.absolute()}")
    text = path.read_text("utf-8-sig").strip()
    if path.suffix.lower() == ".txt":
        return _fit(Template(path.stem, text), path)
    try:
        given = yaml.safe_load(text)  # JSON is YAML
        slots = {
            key: Slot(**_tuples(slot)) for key, slot in (given.pop("slots", None) or {}).items()
        }
        return _fit(Template(**{"name": path.stem, **_tuples(given), "slots": slots}), path)
    except (yaml.YAMLError, TypeError, AttributeError) as fault:
        fields = ", ".join(Template.__dataclass_fields__)
        raise ValueError(
            f"{path} is no template: {fault}. Its fields are {fields}; of a slot "
            f"{', '.join(Slot.__dataclass_fields__)}."
        ) from fault


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def _fit(found: Template, path: Path) -> Template:
    """The template, if its captions name its slots and its choices can be chosen from."""
    if not found.prompt:
        raise ValueError(f"{path} asks nothing: its prompt is empty")
    known = {name for name, slot in found.slots.items() if not slot.labelled} or {"answer"}
    for form in found.captions:
        unknown = {name for _, name, _, _ in Formatter().parse(form) if name is not None} - known
        if unknown:
            raise ValueError(
                f"{path}: the caption {form!r} names {', '.join(sorted(unknown))}; there "
                f"is {', '.join(sorted(known))}"
            )
    wrong = [
        name for name, slot in found.slots.items() if (slot.kind == "choice") != bool(slot.choices)
    ]
    if wrong or not found.captions:
        raise ValueError(f"{path}: give captions, and choices to slots of kind choice only {wrong}")
    return found


def instruction(asked: Template, label: str | None = None) -> str:
    """The words that go to the model with a picture."""
    lines = [asked.prompt]
    if label is not None:
        lines.append(f'The picture is filed under "{label}".')
    if asked.slots:
        lines.append("Answer with one JSON object and nothing else. Its fields:")
        lines += [f'- "{name}": {_about(slot)}' for name, slot in _asked(asked, label).items()]
    return "\n".join(lines)


def _asked(asked: Template, label: str | None) -> dict[str, Slot]:
    return {name: slot for name, slot in asked.slots.items() if label or not slot.labelled}


def _about(slot: Slot) -> str:
    if slot.kind == "choice":
        return f"{slot.about}; one of {', '.join(map(json.dumps, slot.choices))}"
    what = "a list of texts" if slot.kind == "list" else "a text"
    unit = "items" if slot.kind == "list" else "words"
    return f"{slot.about}; {what} of {slot.least} to {slot.most} {unit}"


def parse(asked: Template, answer: str, label: str | None = None) -> dict[str, Any]:
    """The checked fields of an answer; {"answer": prose} where there are no slots.

    Raises ValueError saying what is wrong with it: no JSON, a field missing, unknown, of a wrong
    type or length, a refusal, words that go round in a circle.
    """
    _refuse(answer)
    if not asked.slots:
        prose = " ".join(answer.split())
        _count("the answer", len(prose.split()), asked.least, asked.most, "words")
        return {"answer": prose}
    found, wanted = _object(answer), _asked(asked, label)
    missing, unknown = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    if missing or unknown:
        told = [f"{' and '.join(missing)} missing"] * bool(missing)
        told += [f"{' and '.join(unknown)} not asked for"] * bool(unknown)
        raise ValueError(f"fields: {', '.join(told)}")
    return {name: _value(name, slot, found[name]) for name, slot in wanted.items()}


def said(asked: Template, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions that the checked fields make."""
    words = {k: ", ".join(v) if isinstance(v, list) else v for k, v in fields.items()}
    return tuple(form.format(**words) for form in asked.captions)


def _refuse(answer: str) -> None:
    """ValueError for an answer that says nothing of the picture."""
    plain = " ".join(answer.lower().replace("’", "'").split())
    if not plain:
        raise ValueError("the answer is empty")
    if plain.startswith(REFUSALS):
        raise ValueError(f"the model refused: {plain[:60]}")
    words = plain.split()
    grams = Counter(tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
    if grams and grams.most_common(1)[0][1] > MOST_GRAMS:
        raise ValueError(f"the answer repeats {' '.join(grams.most_common(1)[0][0])!r}")


def opens_badly(caption: str) -> bool:
    """Whether it begins with words such as `The image shows`, which no prompt begins with."""
    return OPENINGS.match(caption.lower()) is not None


def _object(answer: str) -> dict[str, Any]:
    """The JSON object of an answer, bare or in a code fence as chat models write it."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer.strip(), re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else answer)
    except json.JSONDecodeError as fault:
        raise ValueError(f"the answer is no JSON: {fault}") from fault
    if not isinstance(found, dict):
        raise ValueError(f"the answer is a JSON {type(found).__name__}; wanted an object")
    return found


def _value(name: str, slot: Slot, value: Any) -> Any:
    """A field on one line, of the type and length that were asked for."""
    if slot.kind == "choice":
        if value not in slot.choices:
            raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(slot.choices)}")
        return value
    texts = value if slot.kind == "list" else [value]
    if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        want = "a list of texts" if slot.kind == "list" else "a text that is not empty"
        raise ValueError(f"{name} is {json.dumps(value)[:60]}; wanted {want}")
    lines = [" ".join(text.split()) for text in texts]
    if slot.kind == "list":
        _count(name, len(lines), slot.least, slot.most, "items")
        return lines
    _count(name, len(lines[0].split()), slot.least, slot.most, "words")
    return lines[0]


def _count(name: str, count: int, least: int, most: int, unit: str) -> None:
    if not least <= count <= most:
        raise ValueError(f"{name} has {count} {unit}; wanted {least} to {most}")


GENERAL = Template(
    "general",
    "Describe this picture in one paragraph of 30 to 80 words for somebody who is going to paint "
    "it: what is there and where, colours, light, background, and the kind of picture. Begin with "
    "the subject itself, never with words such as 'The image shows'. Say only what can be seen.",
    least=8,
    most=160,
)
BOTANICAL = Template(
    "botanical",
    "You are a botanist who describes a photograph of a plant. Be exact about texture (waxy, "
    "serrated, velvety), anatomy (stamen, pistil, sepals), light and kind of shot. Say only what "
    "can be seen, avoid the words left and right, and write each field as a phrase in lower case "
    "without a full stop; together they should be no longer than 50 words.",
    ("A {view} of a {flower}, having {petals}, the center is {center}, the background is "
     "{background}, {style}.",),
    {
        "view": Slot("kind of shot, such as macro shot or top-down view", most=8),
        "flower": Slot("the plant's common name without an article", most=8),
        "petals": Slot("colour, shape and texture of the petals"),
        "center": Slot("what the middle of the flower looks like"),
        "background": Slot("what lies behind it, sharp or blurred", most=16),
        "style": Slot("light and depth of field", most=16),
        "verdict": Slot(
            "whether the name it is filed under is right",
            "choice",
            choices=("match", "correction", "ambiguous"),
            labelled=True,
        ),
    },
)  # fmt: skip
ANIME = Template(
    "anime",
    "You tag anime pictures the way Danbooru does, and then describe them. Tags are in lower case "
    "with spaces: first how many persons (1girl, 2boys, no humans), then names of characters and "
    "series if you are sure of them, then hair, eyes, clothes, pose, things, place, composition. "
    "Say only what can be seen.",
    ("{tags}", "{prose}"),
    {
        "tags": Slot("the tags, the most important first", "list", 4, 60),
        "prose": Slot("one or two sentences of plain English about the picture", "text", 6, 90),
    },
)
TEMPLATES = {"general": GENERAL, "botanical": BOTANICAL, "anime": ANIME}
