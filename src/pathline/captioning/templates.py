"""Prompts for a captioning model, and the rules that its answers must pass; nothing is filled in.

A template without slots asks for prose; one with slots asks for a JSON object, and its captions are
made of the slots.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import yaml

from pathline.files import digest
from pathline.hints import nearest

REFUSALS = ("i'm sorry", "i am sorry", "i cannot", "i can't", "i'm unable", "as an ai")
OPENINGS = re.compile(r"(the|this) (image|picture|photo)\b[^.]{0,24}\b(shows|depicts|features)\b")
GRAM, MAX_REPEATS = 4, 3  # a sequence of 4 words may occur 3 times


@dataclass(frozen=True)
class Slot:
    """One field of the JSON answer. least, most: words of a text, items of a list."""

    about: str
    kind: Literal["text", "list", "choice"] = "text"
    least: int = 1
    most: int = 24
    choices: tuple[str, ...] = ()
    labelled: bool = False  # only for pictures that have a class


@dataclass(frozen=True)
class Template:
    """A prompt. captions: made of an answer, in order; `{answer}` is prose, `{name}` a slot."""

    name: str
    prompt: str
    captions: tuple[str, ...] = ("{answer}",)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    least: int = 1  # words of prose
    most: int = 400

    @property
    def digest(self) -> str:
        """Changes with anything that can change a caption."""
        return digest(json.dumps(asdict(self)))[:12]


def load_template(name: str) -> Template:
    """A row of TEMPLATES, or a file: .yaml or .json with the fields of `Template`, .txt a prompt.

    Raises ValueError for what is neither, or a file with unknown or wrong fields.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    # Not a built-in one: a file.
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml", ".json", ".txt"):
        raise ValueError(
            f"There is no template {name!r}.{nearest(name, TEMPLATES)} There are: "
            f"{', '.join(TEMPLATES)}; or name a .yaml, .json or .txt file."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no template file {path.absolute()}.")
    text = path.read_text("utf-8-sig").strip()
    if path.suffix.lower() == ".txt":
        return _check(Template(path.stem, text), path)
    try:
        content = yaml.safe_load(text)  # JSON is YAML
        slots = {
            key: Slot(**_tuples(slot)) for key, slot in (content.pop("slots", None) or {}).items()
        }
        return _check(Template(**{"name": path.stem, **_tuples(content), "slots": slots}), path)
    except (yaml.YAMLError, TypeError, AttributeError) as fault:
        fields, slot_fields = Template.__dataclass_fields__, Slot.__dataclass_fields__
        raise ValueError(
            f"{path} is no template: {fault}. Its fields are {', '.join(fields)}; those of a slot "
            f"are {', '.join(slot_fields)}."
        ) from fault


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }


def _check(template: Template, path: Path) -> Template:
    """The template, if its captions name its slots and its choices can be chosen from."""
    if not template.prompt:
        raise ValueError(f"{path}: the prompt is empty. Write one.")
    slots = template.slots
    # Captions may only use what the slots provide.
    names = {name for name, slot in slots.items() if not slot.labelled} or {"answer"}
    for form in template.captions:
        unknown = {name for _, name, _, _ in Formatter().parse(form) if name is not None} - names
        if unknown:
            raise ValueError(
                f"{path}: the caption {form!r} names {', '.join(sorted(unknown))}; there "
                f"is {', '.join(sorted(names))}."
            )
    wrong = [name for name, slot in slots.items() if (slot.kind == "choice") != bool(slot.choices)]
    if wrong or not template.captions:
        raise ValueError(
            f"{path}: set captions, and choices for slots of kind choice only {wrong}."
        )
    return template


def build_prompt(template: Template, label: str | None = None) -> str:
    """The text that goes to the model with a picture. label: the picture's class."""
    lines = [template.prompt]
    if label is not None:
        lines.append(f'The picture is filed under "{label}".')
    if template.slots:
        lines.append("Answer with one JSON object and nothing else. Its fields:")
        slots = _slots_for(template, label)
        lines += [f'- "{name}": {_describe(slot)}' for name, slot in slots.items()]
    return "\n".join(lines)


def _slots_for(template: Template, label: str | None) -> dict[str, Slot]:
    return {name: slot for name, slot in template.slots.items() if label or not slot.labelled}


def _describe(slot: Slot) -> str:
    if slot.kind == "choice":
        return f"{slot.about}; one of {', '.join(map(json.dumps, slot.choices))}"
    what = "a list of texts" if slot.kind == "list" else "a text"
    unit = "items" if slot.kind == "list" else "words"
    return f"{slot.about}; {what} of {slot.least} to {slot.most} {unit}"


def parse_answer(template: Template, answer: str, label: str | None = None) -> dict[str, Any]:
    """The checked fields of an answer; {"answer": prose} where there are no slots.

    Raises ValueError that says what is wrong with it: no JSON, a field missing, unknown, of a wrong
    type or length, a refusal, repetitions.
    """
    _reject_empty_or_repeated(answer)
    if not template.slots:
        prose = " ".join(answer.split())
        _check_count("the answer", len(prose.split()), template.least, template.most, "words")
        return {"answer": prose}
    fields, slots = _parse_object(answer), _slots_for(template, label)
    missing = [name for name in slots if name not in fields]
    unknown = [name for name in fields if name not in slots]
    if missing or unknown:
        problems = [f"{' and '.join(missing)} missing"] * bool(missing)
        problems += [f"{' and '.join(unknown)} not requested"] * bool(unknown)
        raise ValueError(f"fields: {', '.join(problems)}")
    return {name: _check_value(name, slot, fields[name]) for name, slot in slots.items()}


def format_captions(template: Template, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions that checked fields make."""
    texts = {k: ", ".join(v) if isinstance(v, list) else v for k, v in fields.items()}
    return tuple(form.format(**texts) for form in template.captions)


def opens_badly(caption: str) -> bool:
    """Whether it begins with words such as `The image shows`, which no prompt begins with."""
    return OPENINGS.match(caption.lower()) is not None


def _reject_empty_or_repeated(answer: str) -> None:
    """ValueError for an answer that does not describe the picture."""
    plain = " ".join(answer.lower().replace("’", "'").split())
    if not plain:
        raise ValueError("the answer is empty")
    if plain.startswith(REFUSALS):
        raise ValueError(f"the model refused: {plain[:60]}")
    words = plain.split()
    grams = Counter(tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
    if grams and grams.most_common(1)[0][1] > MAX_REPEATS:
        raise ValueError(f"the answer repeats {' '.join(grams.most_common(1)[0][0])!r}")


def _parse_object(answer: str) -> dict[str, Any]:
    """The JSON object of an answer, bare or in a code fence as chat models write it."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer.strip(), re.DOTALL)
    try:
        fields = json.loads(fenced[1] if fenced else answer)
    except json.JSONDecodeError as fault:
        raise ValueError(f"the answer is no JSON: {fault}") from fault
    if not isinstance(fields, dict):
        raise ValueError(f"the answer is a JSON {type(fields).__name__}, not an object")
    return fields


def _check_value(name: str, slot: Slot, value: Any) -> Any:
    """A field on one line, of the slot's type and length."""
    if slot.kind == "choice":
        if value not in slot.choices:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(slot.choices)}")
        return value
    texts = value if slot.kind == "list" else [value]
    if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        kind = "a list of texts" if slot.kind == "list" else "a text that is not empty"
        raise ValueError(f"{name} is {json.dumps(value)[:60]}, not {kind}")
    lines = [" ".join(text.split()) for text in texts]
    if slot.kind == "list":
        _check_count(name, len(lines), slot.least, slot.most, "items")
        return lines
    _check_count(name, len(lines[0].split()), slot.least, slot.most, "words")
    return lines[0]


def _check_count(name: str, count: int, least: int, most: int, unit: str) -> None:
    if not least <= count <= most:
        raise ValueError(f"{name} has {count} {unit}, not {least} to {most}")


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
