"""A loaded flow: the images of the command, in a list; previews; one sentence for what is wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pathline
from pathline.cli import main
from pathline.errors import PathlineError


def same(images, others):
    pairs = zip(images, others, strict=True)
    return all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)


def test_importing_is_light():
    code = (
        "import sys, pathline\n"
        "heavy = [n for n in ('torch', 'numpy', 'PIL', 'rich', 'yaml') if n in sys.modules]\n"
        "print(heavy, 'load' in dir(pathline), pathline.PathlineError.__name__)\n"
        "from pathline import hub, train; print(train.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[] True PathlineError", "pathline.api.train"], done.stderr
    with pytest.raises(AttributeError, match="laod"):
        pathline.laod  # noqa: B018


@pytest.mark.parametrize("name", pathline.__all__)
def test_every_public_name_is_explained(name):
    assert name == "__version__" or len(getattr(pathline, name).__doc__) > 40


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        (["--label", "3", "--n", "3", "--seed", "7"], {"n": 3, "seed": 7}),
        (["--label", "3", "grid=edm", "guidance=2"], {"grid": "edm", "guidance": 2}),
        (
            ["--label", "3", "--solver", "heun", "guidance=interval", "guidance.low=0.2"],
            {"solver": "heun", "guidance": {"name": "interval", "low": 0.2}},
        ),
    ],
)
def test_images_are_those_of_the_command_to_the_bit(digits, typed, options, tmp_path):
    assert (
        main(["generate", str(digits.folder), *typed, "--steps", "4", "--out", str(tmp_path)]) == 0
    )
    files = sorted(path for path in tmp_path.glob("*.png") if path.name != "sheet.png")
    images = digits.generate(3, steps=4, **options)
    assert same(images, [Image.open(file) for file in files])


def test_a_class_goes_by_name_or_number_and_a_list_by_its_order(digits):
    assert same(digits.generate("3"), digits.generate(np.int64(3)))
    images = digits.generate(["7", 3, None], n=2)
    assert images.titles == ("7", "7", "3", "3", "", "")
    assert same(images[2:3], digits.generate(3, seed=2))
    assert [image.size for image in images] == [(8, 8)] * 6
    assert isinstance(images, list)


def test_a_prompt_and_a_list_of_prompts(captioned):
    images = captioned.generate(["a red circle", "a blue square"], n=2, guidance=2.0)
    assert images.titles == ("a red circle",) * 2 + ("a blue square",) * 2
    assert images[0].mode == "RGB"
    assert same(images[:2], captioned.generate("a red circle", n=2, guidance=2.0))
    assert captioned.generate()[0].size == (16, 16)


def test_an_image_to_start_from_is_a_file_or_an_image(captioned, tmp_path):
    start = Image.new("RGB", (40, 20), "red")
    start.save(tmp_path / "start.png")
    from_image = captioned.generate("a red circle", init=start, strength=0.5)
    assert same(
        from_image, captioned.generate("a red circle", init=tmp_path / "start.png", strength=0.5)
    )
    assert not same(from_image, captioned.generate("a red circle"))


def test_a_stream_ends_in_the_images_and_can_be_left(digits):
    previews = list(digits.stream([3, 7, 5], steps=4, seed=2, batch=2))
    assert [(p.step, p.rows) for p in previews] == [
        *((step, range(0, 2)) for step in range(5)),
        *((step, range(2, 3)) for step in range(5)),
    ]
    assert [p.t for p in previews[:5]] == sorted(p.t for p in previews[:5])
    finished = [image for p in previews if p.t == 1 for image in p.images]
    assert same(finished, digits.generate([3, 7, 5], steps=4, seed=2, batch=2))
    assert previews[5].images.titles == ("5",)
    assert not same(previews[0].images, previews[4].images)
    stream = digits.stream(3, steps=1000)
    assert next(stream).step == 0
    stream.close()


def test_a_preview_costs_no_evaluation_of_the_network(digits):
    calls = []
    hook = digits.parts.network.register_forward_hook(lambda *_: calls.append(1))
    list(digits.stream(3, steps=4, solver="euler", guidance=1))
    hook.remove()
    assert len(calls) == 4


def test_loading_takes_text_paths_checkpoints_and_an_average(digits, monkeypatch):
    monkeypatch.setenv("HOME", str(digits.folder.parent))
    for run in (str(digits.folder), "~/digits", digits.checkpoint):
        assert same(pathline.load(run).generate(3), digits.generate(3))
    assert pathline.load(digits.folder).weights == "EMA 0.5"
    plain, other = (pathline.load(digits.folder, ema=ema) for ema in (0, 0.9))
    assert (plain.weights, other.weights) == ("weights", "EMA 0.9")
    assert not torch.equal(*(next(flow.parts.network.parameters()) for flow in (plain, other)))


def test_a_weaker_flow_guides(digits):
    guided = digits.generate(3, guidance="autoguidance", weak=pathline.load(digits.folder, ema=0))
    assert not same(guided, digits.generate(3))


def test_a_flow_says_what_it_is(digits, captioned):
    assert digits.classes == tuple("0123456789")
    assert digits.size == (8, 8)
    assert digits.settings["sample"]["steps"] == 3
    assert "step-00000010" in repr(digits)
    html = digits._repr_html_()
    assert html.count("<tr>") == 6
    assert "classes" in html
    assert captioned.classes == ()
    page = digits.generate([3, 7])._repr_png_()
    assert page.startswith(b"\x89PNG")
    assert pathline.Images()._repr_png_() is None


BAD = {
    "a class that is none": (lambda f: f.generate("cat"), "There is no class 'cat'"),
    "an unknown setting": (lambda f: f.generate(3, stps=2), "Did you mean 'steps'"),
    "a solver that is none": (lambda f: f.stream(3, solver="huen"), "Did you mean 'heun'"),
    "no step": (lambda f: f.generate(3, steps=0), "must be a whole number"),
    "no image": (lambda f: f.generate(3, n=0), "1 or more"),
    "no prompt": (lambda f: f.generate([]), "asks for no image"),
    "a setting of the training": (lambda f: f.generate(train={"updates": 2}), "can't be changed"),
    "weights": (lambda f: f.generate(3, ema=0), "pathline.load"),
    "no file": (lambda f: f.generate(3, init="no.png"), "no.png does not exist"),
    "no run": (lambda f: pathline.load(f.folder / "nope"), "does not exist"),
    "no average": (lambda f: pathline.load(f.folder, ema=0.3), "0.3 is wrong"),
    "no value": (lambda f: f.generate(3, grid=object()), "is wrong because a setting is"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_sentence(digits, case):
    work, words = BAD[case]
    with pytest.raises(PathlineError, match=words) as raised:
        work(digits)
    assert raised.value.code == 2
    assert "command line" not in str(raised.value)


def test_an_unseen_word_is_skipped_with_a_warning(captioned):
    with pytest.warns(UserWarning, match="zebra"):
        images = captioned.generate("a red zebra")
    assert len(images) == 1


def test_a_number_asks_for_a_class(captioned):
    with pytest.raises(PathlineError, match="trained on classes"):
        captioned.generate(3)


def test_a_sentence_is_that_of_the_command(digits, capfd):
    assert main(["generate", str(digits.folder), "cat"]) == 2
    with pytest.raises(PathlineError) as raised:
        digits.generate("cat")
    assert capfd.readouterr().err == f"pathline: {raised.value}\n"


def test_a_fault_of_ours_keeps_its_own_type(digits, monkeypatch):
    monkeypatch.setattr("pathline.api.flow.prepare_request", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        digits.generate(3)


def test_a_warning_is_a_warning(digits):
    later = digits.folder / "checkpoints" / "step-00000019"
    later.mkdir()
    (later / "manifest.json").write_text(json.dumps({}))
    with pytest.warns(UserWarning, match="step-00000019"):
        flow = pathline.load(digits.folder)
    (later / "manifest.json").unlink()
    later.rmdir()
    assert flow.checkpoint == digits.checkpoint
