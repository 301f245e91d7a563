"""Damaged run folders: what is whole is used and stays as it is, what is not is named.

Each case copies a run with three checkpoints, damages one to three things in it as a crash, a full
disk, a synchronising program or a person would, and runs one command. The oracle knows which
checkpoints are whole, bit for bit. It is wrong if one of them changes, if a command exits 0 with
another checkpoint than the newest whole one or without a word on a damaged newer one, if readable
lines of metrics are lost, or if a temporary file is left.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mutations import Answer, Case, answer
from safetensors.torch import load_file

from pathline.files import digest
from pathline.training import checkpoint
from pathline.training.trackers.jsonl import lines

RUN, FILE = "run", "away.safetensors"
TINY = (
    *("debug", "train.updates=6", "train.save_every=2", "train.keep_recent=9", "train.log_every=1"),
    *("train.batch=4", "train.sample_every=0", "train.validate_every=3", "train.probe_every=0"),
    *("train.precision=fp32", "train.power_ema=[0.05,0.1]", "train.snapshot_every=3"),
    *("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "device=cpu"),
)
COMMANDS = {
    "resume": ("train", "--resume", RUN, "train.updates=8"),
    "generate": ("generate", RUN, "steps=1", "--n", "1", "--device", "cpu", "--out", "pictures"),
    "eval": ("eval", RUN, "--n", "4", "--steps", "1", "--device", "cpu", "feature=pca"),
    "export": ("export", RUN, "--out", "new.safetensors"),
    "generate file": ("generate", f"{RUN}/{FILE}", "steps=1", "--n", "1", "--device", "cpu"),
    "ema": ("ema", RUN, "--sigma-rel", "0.08", "--out", "ema.safetensors"),
    "runs": ("runs", "."),
}
# Content that is no JSON, no text, or JSON of something else.
GARBAGE = (
    *(b"", b"\0" * 512, b"\xff\xfe\xe9", b"[]", b"{}", b"null", b"7", b'"text"', b'{"files": 3}'),
    *(b'{"files": {"a": {}}}', b'{"update": 1e999}', b"[" * 100_000, b"\xef\xbb\xbf{}", b"{"),
)
FOREIGN = (".DS_Store", "._network.safetensors", "Thumbs.db", "network (1).safetensors", "x.tmp")


class State(NamedTuple):
    """What the oracle knows of a damaged run before the command."""

    whole: Mapping[str, dict[str, str]]  # checkpoint -> file -> digest, of those that are whole
    metrics: list[str]  # lines that can be read, up to the newest whole checkpoint
    newest: int  # of the whole checkpoints; 0: none
    damaged_newer: bool  # a numbered checkpoint after it is there, and not whole


def prepare(shared: Path) -> None:
    """Train the run that all cases damage, and export it."""
    run = str(shared / RUN)
    for command in (
        ("train", *TINY, "--out", run),
        ("export", run, "--out", str(shared / FILE)),
    ):
        done = answer(command)
        if done.code:
            raise SystemExit(f"The run of all cases was not made:\n{done.text}")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def any_file(rng: random.Random, folder: Path) -> Path:
    """A file of the run; often one that every command reads."""
    run = folder / RUN
    newest = max(run.glob("checkpoints/step-????????"), default=run)
    read = [path for path in (*run.iterdir(), *newest.iterdir()) if path.is_file()]
    return rng.choice(read if rng.random() < 0.6 else files_of(run))


def cut(rng: random.Random, folder: Path) -> str:
    file = any_file(rng, folder)
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content) or 1)])
    return f"{file.relative_to(folder)} cut"


def flip(rng: random.Random, folder: Path) -> str:
    file = any_file(rng, folder)
    content = bytearray(file.read_bytes() or b"\0")
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return f"{file.relative_to(folder)} byte {place} flipped"


def garbage(rng: random.Random, folder: Path) -> str:
    file, content = any_file(rng, folder), rng.choice(GARBAGE)
    file.write_bytes(content)
    return f"{file.relative_to(folder)} is {content[:20]!r}"


def delete(rng: random.Random, folder: Path) -> str:
    file = any_file(rng, folder)
    file.unlink()
    return f"{file.relative_to(folder)} deleted"


def folder_instead(rng: random.Random, folder: Path) -> str:
    file = any_file(rng, folder)
    file.unlink()
    file.mkdir()
    return f"{file.relative_to(folder)} is a folder"


def link_to_itself(rng: random.Random, folder: Path) -> str:
    file = any_file(rng, folder)
    file.unlink()
    file.symlink_to(file)
    return f"{file.relative_to(folder)} links to itself"


def any_checkpoint(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted((folder / RUN / "checkpoints").glob("step-*")))


def foreign(rng: random.Random, folder: Path) -> str:
    place = rng.choice([any_checkpoint(rng, folder), folder / RUN, folder / RUN / "checkpoints"])
    name = rng.choice(FOREIGN)
    (place / name).write_bytes(rng.randbytes(rng.choice([0, 100])))
    return f"{name} in {place.relative_to(folder)}"


def delete_checkpoint(rng: random.Random, folder: Path) -> str:
    saved = any_checkpoint(rng, folder)
    shutil.rmtree(saved)
    return f"{saved.name} deleted"


def rename_checkpoint(rng: random.Random, folder: Path) -> str:
    saved = any_checkpoint(rng, folder)
    name = rng.choice(["step-00000099", "step-5", "step-last", f"{saved.name} copy", "backup"])
    saved.rename(saved.with_name(name))
    return f"{saved.name} renamed {name}"


def copy_checkpoint(rng: random.Random, folder: Path) -> str:
    saved = any_checkpoint(rng, folder)
    name = rng.choice([f"{saved.name} copy", f"{saved.name}.bak", "step-", ".tmp-step-00000006-1"])
    shutil.copytree(saved, saved.with_name(name))
    return f"{saved.name} copied as {name}"


def swap(rng: random.Random, folder: Path) -> str:
    """A file of one checkpoint in the place of another's."""
    one, two = any_checkpoint(rng, folder), any_checkpoint(rng, folder)
    names = [path.name for path in files_of(one) if (two / path.name).is_file()]
    name = rng.choice(names or ["manifest.json"])
    if names:
        shutil.copy(one / name, two / name)
    return f"{name} of {one.name} in {two.name}"


def manifest(rng: random.Random, folder: Path) -> str:
    """A manifest that is JSON and says something else."""
    file = any_checkpoint(rng, folder) / "manifest.json"
    content = json.loads(file.read_bytes())
    listed = content["files"]
    name = rng.choice(sorted(listed))
    match rng.randrange(5):
        case 0:
            del listed[name]
        case 1:
            listed[name]["bytes"] = rng.choice([-1, "x", None, 10**30, 1.5])
        case 2:
            listed[name]["sha256"] = rng.choice(["", None, "0" * 64])
        case 3:
            listed["../../../outside"] = listed[name]
        case 4:
            content["update"] = rng.choice([None, -1, "x", 99])
    file.write_text(json.dumps(content), encoding="utf-8")
    return f"manifest of {file.parent.name}: {name}"


def metrics(rng: random.Random, folder: Path) -> str:
    file = folder / RUN / "metrics.jsonl"
    if not file.is_file():
        return "no metrics"
    content = file.read_bytes().splitlines(keepends=True)
    line = rng.choice(
        [b'{"update": 3, "lo', b"\xff\xfe\n", b"\n", b"[]\n", b'{"update": "x"}\n', b"nan\n"]
    )
    content.insert(rng.randrange(len(content) + 1), line)
    file.write_bytes(b"".join(content))
    return f"metrics.jsonl with {line!r}"


DAMAGES: tuple[Callable[[random.Random, Path], str], ...] = (
    *(cut, flip, garbage, delete, folder_instead, link_to_itself, foreign, delete_checkpoint),
    *(rename_checkpoint, copy_checkpoint, swap, manifest, metrics),
)


def mutate(rng: random.Random, shared: Path, folder: Path) -> Case:
    """One damaged run and the command that reads it."""
    name = rng.choice(sorted(COMMANDS))
    if name == "generate file":  # in the place of a run, so that it is what is damaged
        (folder / RUN).mkdir()
        shutil.copy(shared / FILE, folder / RUN)
    else:
        shutil.copytree(shared / RUN, folder / RUN)
    changes: list[str] = []
    details: list[str] = []
    while not changes:
        damage_some(rng, folder, changes, details)
    before = state_of(shared / RUN, folder / RUN)
    judge = partial(JUDGES.get(name, judge_other), before, folder)
    return Case(
        f"{name}: {changes[0] if len(changes) == 1 else 'several'}",
        "; ".join(details),
        [COMMANDS[name]],
        lambda answers: changed(before, folder) or litter(folder) or judge(answers),
    )


def damage_some(rng: random.Random, folder: Path, changes: list[str], details: list[str]) -> None:
    """One to three damages, with their names and what they changed."""
    for damage in rng.choices(DAMAGES, k=rng.choice([1, 1, 2, 3])):
        try:
            details.append(damage(rng, folder))
            changes.append(damage.__name__)
        except (OSError, IndexError, ValueError):
            continue  # an earlier damage has left nothing for this one


def state_of(original: Path, run: Path) -> State:
    """What is whole: checkpoints whose every file is the one that was written."""
    whole, numbered = {}, []
    root = run / "checkpoints"
    for saved in sorted(root.glob("step-????????")) if root.is_dir() else ():
        source = original / "checkpoints" / saved.name
        expected = {path.name: digest(path) for path in files_of(source)}
        present = {name: digest_or_none(saved / name) for name in expected}
        if expected and present == expected:
            whole[saved.name] = expected
        if saved.name[5:].isdigit():
            numbered.append(saved.name)
    newest = max(whole, default="")
    reached = int(newest[5:]) if newest else 0
    texts = [
        json.dumps(line)
        for line in (lines(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else ())
        if line["update"] <= reached
    ]
    return State(whole, texts, reached, any(name > newest for name in numbered))


def digest_or_none(file: Path) -> str | None:
    try:
        return digest(file)
    except OSError:
        return None


def changed(before: State, folder: Path) -> str:
    """Every whole checkpoint is as it was."""
    for name, files in before.whole.items():
        saved = folder / RUN / "checkpoints" / name
        odd = [file for file, value in files.items() if digest_or_none(saved / file) != value]
        if odd:
            return f"The whole checkpoint {name} has changed: {', '.join(odd)}."
    return ""


def litter(folder: Path) -> str:
    """No temporary file is left by the command."""
    left = [path for path in folder.rglob(".*.tmp") if path.is_file()]
    return f"Temporary files are left: {left}." if left else ""


def judge_other(before: State, folder: Path, answers: list[Answer]) -> str:
    """Nothing more is known."""
    del before, folder, answers
    return ""


def judge_reading(before: State, folder: Path, answers: list[Answer]) -> str:
    """A command that reads a run uses the newest whole checkpoint, and names damaged newer ones."""
    del folder
    code, text = answers[-1]
    if code == 0 and not before.newest:
        return "It exits 0 without a whole checkpoint."
    if code == 0 and before.damaged_newer and "is passed over" not in text:
        return "A damaged newer checkpoint is passed over without a word."
    return ""


def judge_resume(before: State, folder: Path, answers: list[Answer]) -> str:
    """It goes on from the newest whole checkpoint, and keeps what was logged until then."""
    code, text = answers[-1]
    if code:
        return ""
    if not before.newest:
        return "It began again in the folder of a run." if before.damaged_newer else ""
    if f"resumed at update {before.newest} of" not in text:
        return f"It did not go on from update {before.newest}."
    now = {json.dumps(line) for line in lines(folder / RUN / "metrics.jsonl")}
    if lost := [line for line in before.metrics if line not in now]:
        return f"Lines of metrics are lost: {lost[:2]}"
    return judge_reading(before, folder, answers)


def judge_export(before: State, folder: Path, answers: list[Answer]) -> str:
    """The file has the average of the newest whole checkpoint."""
    if answers[-1].code:
        return "new.safetensors is left" if (folder / "new.safetensors").exists() else ""
    if before.newest:
        saved = folder / RUN / "checkpoints" / checkpoint.name(before.newest)
        files = sorted(saved.glob("network-ema-*.safetensors"))
        expected, written = load_file(files[0]), load_file(folder / "new.safetensors")
        if any(not expected[name].equal(written[name]) for name in expected):
            return "The exported weights are not those of the newest whole checkpoint."
    return judge_reading(before, folder, answers)


JUDGES = {
    **dict.fromkeys(("generate", "eval"), judge_reading),
    **{"resume": judge_resume, "export": judge_export},
}
