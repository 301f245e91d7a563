"""Captioning that is stopped loses at most a batch; what processes share comes out the same."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pathline.recipes.caption import caption

pytest.importorskip("transformers")


def told(root, name="metadata.jsonl"):
    lines = (root / name).read_text("utf-8").split("\n")
    return {record["file_name"]: record for record in map(json.loads, filter(None, lines))}


def test_an_interrupt_keeps_what_was_made(tiny, pictures, speaking):
    def answer(n, _):
        if n == 3:
            raise KeyboardInterrupt
        return "one two three four five six seven eight"

    speaking(answer)
    with pytest.raises(KeyboardInterrupt):
        caption(pictures, model=str(tiny), batch=1)
    assert set(told(pictures)) == {"a.png", "b.png"}


def resumed(pictures, tiny, speaking):
    """After a kill in the third of three batches: what the next run still asks about."""
    assert not (pictures / "metadata.jsonl").exists()
    [part] = (pictures / ".metadata-parts").iterdir()
    with part.open("a") as file:
        file.write('{"key": "c.png", "cap')  # as a kill in the middle of a write would leave it
    calls = speaking(lambda *_: "one two three four five six seven eight")
    assert caption(pictures, model=str(tiny), batch=1) == 0
    assert set(told(pictures)) == {"a.png", "b.png", "c.png"}
    assert not (pictures / ".metadata-parts").exists()
    return len(calls)


def test_what_ends_it_at_once_loses_at_most_a_batch(tiny, pictures, speaking):
    class End(BaseException):
        pass

    def answer(n, _):
        if n == 3:
            raise End
        return "one two three four five six seven eight"

    speaking(answer)
    with pytest.raises(End):
        caption(pictures, model=str(tiny), batch=1)
    assert resumed(pictures, tiny, speaking) == 1


@pytest.mark.slow
def test_a_kill_loses_at_most_a_batch(tiny, pictures, speaking):
    script = f"""
import os, signal
from pathlib import Path
from pathline.captioning import model as captioner
from pathline.recipes.caption import caption
calls = []
def ask(images, *_):
    calls.append(images)
    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)
    return [captioner.Answer("one two three four five six seven eight", True)]
captioner.load_model = lambda *_, **__: ask
caption(Path({str(pictures)!r}), model={str(tiny)!r}, batch=1)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert resumed(pictures, tiny, speaking) == 1


@pytest.mark.slow
def test_processes_share_the_pictures(tiny, pictures, plain):
    words = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", sys.executable,
             "-c", f"from pathlib import Path; from pathline.recipes.caption import caption; "
             f"caption(Path({str(pictures)!r}), model={str(tiny)!r}, template={plain!r}, "
             "max_new_tokens=40, device='cpu')"]  # fmt: skip
    given = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, timeout=300, env=given)
    together = told(pictures)
    (pictures / "metadata.jsonl").unlink()
    caption(pictures, model=str(tiny), template=plain, max_new_tokens=40, device="cpu")
    assert {k: v["captions"] for k, v in together.items()} == {
        k: v["captions"] for k, v in told(pictures).items()
    }
