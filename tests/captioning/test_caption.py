"""`pathline caption` on a tiny random Qwen3-VL of the real classes: the words are noise, so what is
tested is the way there and back. Where an answer must be fit, a stand-in gives it."""

import json
import shutil
import sys

import pytest
from PIL import Image

from pathline.captioning.model import Answer, find_model
from pathline.data.sources.folder import folder as read_folder
from pathline.recipes.caption import caption

pytest.importorskip("transformers")
FLOWER = {"view": "macro shot", "flower": "bellflower", "petals": "waxy violet petals",
          "center": "pale", "background": "dark green", "style": "soft light"}  # fmt: skip
GOOD = json.dumps(FLOWER)


def told(root, name="metadata.jsonl"):
    lines = (root / name).read_text("utf-8").split("\n")
    return {record["file_name"]: record for record in map(json.loads, filter(None, lines))}


def read(root):
    source = read_folder(path=root)
    return {e.key: e.captions for e in map(source.read, range(source.count))}


def test_the_whole_way_with_a_real_model(tiny, pictures, plain, capsys):
    assert caption(pictures, model=str(tiny), template=plain, max_new_tokens=40) == 0
    found = told(pictures)
    said = found["a.png"]["provenance"][0]
    assert said["model"] == tiny.name
    assert said["revision"] == find_model(str(tiny))[1]
    assert said["template"] == "plain"
    assert len(said["template_digest"]) == 12
    assert said["settings"] == "temperature=0 pixels=589824"
    assert said["date"].startswith("20")
    assert "torchvision" not in sys.modules
    captions = read(pictures)
    assert captions["b.png"][0] == "by hand"
    assert [len(captions[k]) for k in ("a.png", "b.png", "c.png")] == [1, 2, 1]
    assert "text" not in found["b.png"]  # the side-car goes on saying it
    assert found["a.png"]["text"] == found["a.png"]["captions"][0]
    assert "3 images captioned" in capsys.readouterr().out
    assert sorted(p.name for p in pictures.iterdir()) == [
        "a.png", "b.png", "b.txt", "c.png", "metadata.jsonl"]  # fmt: skip


def test_resuming_asks_only_for_what_is_new_or_changed(tiny, pictures, speaking):
    calls = speaking(lambda n, k: f"one two three four five six seven eight {n} {k}")
    assert caption(pictures, model=str(tiny)) == 0
    assert [len(call[0]) for call in calls] == [3]
    before = (pictures / "metadata.jsonl").read_bytes()
    assert caption(pictures, model=str(tiny)) == 0
    assert len(calls) == 1
    assert (pictures / "metadata.jsonl").read_bytes() == before
    Image.new("RGB", (9, 9)).save(pictures / "a.png")
    Image.new("RGB", (9, 9)).save(pictures / "d.png")
    assert caption(pictures, model=str(tiny)) == 0
    assert [len(call[0]) for call in calls] == [3, 2]
    assert [len(c) for c in read(pictures).values()] == [1, 2, 1, 1]
    assert told(pictures)["a.png"]["text"].endswith("eight 2 0")
    caption(pictures, model=str(tiny), resume=False)
    assert [len(call[0]) for call in calls] == [3, 2, 4]
    assert [len(c) for c in read(pictures).values()] == [1, 2, 1, 1]


def test_another_template_adds_captions_and_replace_leaves_nothing_else(tiny, pictures, speaking):
    speaking(lambda *_: "a red square above a small blue one and nothing else")
    caption(pictures, model=str(tiny))
    speaking(lambda *_: GOOD)
    caption(pictures, model=str(tiny), template="botanical")
    first, flower = read(pictures)["c.png"]
    assert first.startswith("a red square")
    assert flower == (
        "A macro shot of a bellflower, having waxy violet petals, the center is pale, "
        "the background is dark green, soft light."
    )
    said = told(pictures)["c.png"]["provenance"]
    assert [one["template"] for one in said] == ["general", "botanical"]
    assert json.loads(said[1]["answer"]) == FLOWER
    caption(pictures, model=str(tiny), template="botanical", replace=True)
    assert set(read(pictures).values()) == {(flower,)}


def test_human_captions_in_metadata_stay_first_and_other_fields_stay(tiny, pictures, speaking):
    mine = [{"file_name": "a.png", "prompt": "mine", "label": 3}, {"file_name": "gone.png", "x": 1}]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, mine)))
    speaking(lambda *_: "one two three four five six seven eight nine")
    caption(pictures, model=str(tiny))
    found = told(pictures)
    assert found["a.png"]["prompt"] == "mine"
    assert found["a.png"]["label"] == 3
    assert found["gone.png"] == mine[1]
    assert found["c.png"]["prompt"].startswith("one two")  # in the field that is used there
    source = read_folder(path=pictures, caption="prompt", label=None)
    assert source.read(0).captions == ("mine", "one two three four five six seven eight nine")


def test_bad_answers_are_tried_again_with_other_chance_and_then_listed(tiny, pictures, speaking):
    bad = {1: "no json", 2: '{"view": "macro"}', 3: "I'm sorry, I can't do that."}
    calls = speaking(lambda n, k: GOOD if n == 1 and k else bad[min(n, 3)])
    assert caption(pictures, model=str(tiny), template="botanical", retries=2) == 0
    assert [len(call[0]) for call in calls] == [3, 1, 1]
    assert [call[3] for call in calls] == [0.0, 0.7, 0.7]
    assert len({call[2][0] for call in calls}) == 3
    fault = json.loads((pictures / "caption-faults.jsonl").read_text())
    assert fault["key"] == "a.png"
    assert "no caption in 3 attempts: the model refused" in fault["reason"]
    assert "a.png" not in told(pictures)
    speaking(lambda *_: GOOD)  # it is tried again, and mended
    assert caption(pictures, model=str(tiny), template="botanical") == 0
    assert "a.png" in told(pictures)
    assert not (pictures / "caption-faults.jsonl").exists()


def test_a_cut_answer_is_no_caption(tiny, pictures, speaking, capsys):
    speaking(lambda *_: Answer("a red square above a small blue one and", False))
    assert caption(pictures, model=str(tiny), retries=0, max_new_tokens=7) == 1
    assert "cut after 7 tokens. Raise --max-new-tokens" in capsys.readouterr().out
    assert not (pictures / "metadata.jsonl").exists()


def test_bad_pictures_are_listed_and_odd_ones_seen(tiny, pictures, plain, capsys):
    (pictures / "text.png").write_text("no picture")
    (pictures / "cut.png").write_bytes((pictures / "c.png").read_bytes()[:200])
    Image.new("RGB", (1, 1)).save(pictures / "dot.png")
    Image.new("CMYK", (9, 9)).save(pictures / "cmyk.jpg")
    Image.new("RGB", (900, 3)).save(pictures / "line.png")  # the processor refuses such shapes
    frames = [Image.new("P", (8, 8), n) for n in range(3)]
    frames[0].save(pictures / "moving.gif", save_all=True, append_images=frames[1:])
    assert caption(pictures, model=str(tiny), template=plain, max_new_tokens=60) == 0
    assert {"dot.png", "cmyk.jpg", "moving.gif"} < set(told(pictures))
    faults = [json.loads(x) for x in (pictures / "caption-faults.jsonl").read_text().splitlines()]
    reasons = {fault["key"]: fault["reason"] for fault in faults}
    assert set(reasons) == {"text.png", "cut.png", "line.png"}
    assert "cannot be read as a picture" in reasons["text.png"]
    assert "aspect ratio" in reasons["line.png"]
    assert "3 images have no caption; all are listed in" in capsys.readouterr().out


def test_large_pictures_are_scaled_down(tiny, pictures, speaking):
    Image.new("RGB", (400, 100)).save(pictures / "a.png")
    calls = speaking(lambda *_: "one two three four five six seven eight")
    caption(pictures, model=str(tiny), pixels=2500)
    assert [image.size for image in calls[0][0]] == [(100, 25), (8, 16), (50, 50)]


def test_side_cars(tiny, pictures, speaking):
    shutil.copy(pictures / "c.png", pictures / "c.webp.png")
    Image.open(pictures / "c.png").save(pictures / "c.jpg")
    speaking(lambda *_: "one two three four five six seven eight")
    caption(pictures, model=str(tiny), side_cars=True)
    texts = {p.name: p.read_text() for p in pictures.glob("*.txt")}
    made = "one two three four five six seven eight\n"
    assert texts == {"a.txt": made, "b.txt": "by hand\n" + made, "c.png.txt": made,
                     "c.jpg.txt": made, "c.webp.txt": made}  # fmt: skip
    assert read(pictures)["b.png"] == ("by hand", made.strip())
    Image.new("RGB", (9, 9)).save(pictures / "b.png")  # what was said of it before is stale
    speaking(lambda *_: "nine ten eleven twelve one two three four")
    caption(pictures, model=str(tiny))
    assert read(pictures)["b.png"] == ("by hand", "nine ten eleven twelve one two three four")


def test_splits_and_an_own_file(tiny, pictures, speaking, tmp_path):
    speaking(lambda *_: "one two three four five six seven eight")
    out = tmp_path / "elsewhere" / "flowers.jsonl"
    caption(pictures, model=str(tiny), out=out)
    assert set(told(out.parent, out.name)) == {"a.png", "b.png", "c.png"}
    assert not (pictures / "metadata.jsonl").exists()
    root = tmp_path / "parted"
    for split in ("train", "test"):
        shutil.copytree(pictures, root / split)
    caption(root, model=str(tiny))
    assert set(told(root / "train")) == set(told(root / "test")) == {"a.png", "b.png", "c.png"}
    assert len(read_folder(path=root, split="test").read(0).captions) == 1


def test_labels_are_told_to_the_model(tiny, pictures, speaking):
    for name in ("tulip", "rose"):
        (pictures / name).mkdir()
    shutil.move(pictures / "a.png", pictures / "tulip" / "a.png")
    shutil.move(pictures / "c.png", pictures / "rose" / "c.png")
    (pictures / "b.png").unlink()
    calls = speaking(lambda *_: json.dumps({**FLOWER, "verdict": "match"}))
    assert caption(pictures, model=str(tiny), template="botanical") == 0
    assert 'filed under "rose"' in calls[0][1][0]
    assert 'filed under "tulip"' in calls[0][1][1]
    said = told(pictures)["rose/c.png"]["provenance"][0]["answer"]
    assert json.loads(said)["verdict"] == "match"


def test_a_dry_run_writes_nothing(tiny, pictures, speaking, capsys):
    calls = speaking(lambda *_: "one two three four five six seven eight")
    assert caption(pictures, model=str(tiny), dry_run=2) == 0
    assert len(calls[0][0]) == 2
    assert "a.png: one two" in capsys.readouterr().out
    assert {p.suffix for p in pictures.iterdir()} == {".png", ".txt"}


def test_a_folder_without_pictures(tiny, tmp_path):
    with pytest.raises(ValueError, match="has no picture"):
        caption(tmp_path, model=str(tiny))
