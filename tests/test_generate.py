"""Pictures: the same alone and in a batch, guided as asked, in files that tell their story."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pathline.assemble import assemble, sampler
from pathline.cli import main
from pathline.config.pick import pick
from pathline.config.run import Run, Sample
from pathline.flow.guidance import Push
from pathline.generate import Conditioning, Done, Step, generate, sample_images, sample_steps
from pathline.types import Facts

FACTS = Facts(1, 8, 8, names=tuple("abc"))
NET = pick("dit", width=32, depth=2, heads=2, patch=2)


@pytest.fixture
def parts():
    made = assemble(Run(text=pick("labels"), backbone=NET), FACTS)
    rng = torch.Generator().manual_seed(1)
    for p in made.network.parameters():  # the fresh network's output is exactly 0
        p.data.add_(0.1 * torch.randn(p.shape, generator=rng))
    return made


def draws(parts, **settings):
    return sampler(Sample(steps=4, **settings), parts.path)


@pytest.mark.parametrize("solver", ["euler", "heun", "unipc2", "ancestral", "sde"])
def test_picture_7_is_the_same_alone_and_in_a_batch(parts, solver):
    walk = draws(parts, solver=pick(solver), guidance=pick("cfg", scale=2.0))
    items, seeds = [i % 3 for i in range(16)], list(range(16))
    together = list(sample_steps(parts, items, seeds, walk))[-1].x
    alone = list(sample_steps(parts, items[7:8], seeds[7:8], walk))[-1].x
    torch.testing.assert_close(together[7], alone[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[7], together[8], atol=1e-2)


def test_the_size_of_the_batches_changes_nothing(parts):
    items, seeds = [0, 1, 2, None, 1], [3, 1, 4, 1, 5]
    one, two = (sample_images(parts, items, seeds, draws(parts), batch=size) for size in (2, 5))
    assert (one.int() - two.int()).abs().max() <= 1


def test_guidance_1_asks_the_network_once_a_step_and_3_twice(parts):
    calls = []
    parts.network.register_forward_hook(lambda *_: calls.append(1))
    for scale, wanted in ((1.0, 4), (3.0, 8)):
        calls.clear()
        sample_images(parts, [0, 1], [0, 1], draws(parts, guidance=pick("cfg", scale=scale)))
        assert len(calls) == wanted


def test_autoguidance_needs_and_uses_a_weaker_network(parts):
    walk = draws(parts, guidance=pick("autoguidance", scale=2.0))
    with pytest.raises(ValueError, match="--weak"):
        sample_images(parts, [0], [0], walk)
    weak = assemble(Run(text=pick("labels"), backbone=NET), FACTS)  # its velocity is 0
    led = list(sample_steps(parts, [0], [0], walk, weak=weak))[-1].x
    plain = list(sample_steps(parts, [0], [0], draws(parts)))[-1].x
    assert not torch.allclose(led, plain, atol=1e-3)


def other(seed=2, classes="abc", **settings):
    """A run of the same data with other weights."""
    run = Run(text=pick("labels"), **{"backbone": NET, **settings})
    made = assemble(run, FACTS._replace(names=tuple(classes)))
    rng = torch.Generator().manual_seed(seed)
    for p in made.network.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=rng))
    return made


def test_a_weaker_run_is_read_by_its_own_objective(parts):
    """Led from itself by an x1-prediction's velocity, a velocity stays what it is at scale 1."""
    weak = other(objective=pick("flow", prediction="x1"))
    walk = draws(parts, guidance=pick("autoguidance", scale=2.0))
    led = list(sample_steps(parts, [0], [0], walk, weak=weak))[-1].x
    x = next(sample_steps(parts, [0], [0], walk, weak=weak)).x
    cond = parts.text.encode([0])
    fields = [each.objective.field(each.network, cond) for each in (parts, weak)]
    for t in (0.0, 0.25, 0.5, 0.75):
        with torch.no_grad():
            v, v_weak = (field(x, t) for field in fields)
        x = x + 0.25 * (v_weak + 2 * (v - v_weak))
    torch.testing.assert_close(led, x, atol=1e-5, rtol=1e-5)


def test_an_encoder_is_shared_by_the_network_that_has_one():
    strong = other(backbone=pick("ddt", width=32, depth=2, decoder=1, heads=2, patch=2))
    walk = draws(strong, guidance=pick("autoguidance", scale=2.0), sharing=pick("every", steps=2))
    assert len(list(sample_steps(strong, [0], [0], walk, weak=other()))) == 5


@pytest.mark.parametrize(
    ("weak", "guidance", "says"),
    [
        ({}, "cfg", "Add guidance=autoguidance"),
        ({"classes": "abd"}, "autoguidance", "another list of classes"),
        ({"path": pick("trig")}, "autoguidance", "another path: trig, this run straight"),
        ({"codec": pick("pixel", std=0.5)}, "autoguidance", "another normalisation"),
        (
            {"objective": pick("transition"), "backbone": pick("dit", width=32, depth=2, heads=2)},
            "autoguidance",
            "the weaker run: sample.solver=euler is wrong because objective=transition is sampled",
        ),
    ],
)
def test_a_weaker_run_that_makes_no_sense_is_refused(parts, weak, guidance, says):
    walk = draws(parts, guidance=pick(guidance))
    with pytest.raises(ValueError, match=re.escape(says)):
        sample_images(parts, [0], [0], walk, weak=other(**weak))


def test_a_weaker_run_of_other_words_is_refused_and_one_without_is_not():
    """Word indices of one vocabulary mean other words in another."""
    facts = FACTS._replace(words=("a", "b"))
    words = Run(text=pick("words", width=16, layers=0), backbone=NET)
    strong, odd = (assemble(words, facts._replace(words=w)) for w in (("a", "b"), ("a", "c")))
    walk = draws(strong, guidance=pick("autoguidance"))
    with pytest.raises(ValueError, match="another list of words"):
        sample_images(strong, ["a b"], [0], walk, weak=odd)
    unconditional = assemble(Run(text=pick("none"), backbone=NET), FACTS)
    assert len(sample_images(strong, ["a b"], [0], walk, weak=unconditional)) == 1


def test_the_push_taken_back_follows_the_size_that_is_drawn():
    """A mean picture that is everywhere alike is so in any size; a slope stays one."""
    net = pick("stream_dit", width=32, depth=2, heads=2, patch=2)
    free = other(backbone=net)
    walk = draws(free, guidance=pick("contrastive", scale=2.0))
    slope = torch.linspace(-1, 1, 8).expand(1, 8, 8)
    drawn = {}
    for name, mean in (("flat", torch.ones(1, 8, 8)), ("one", torch.ones(1, 1, 1)), ("s", slope)):
        led = free._replace(push=Push(0.2, mean))
        drawn[name] = list(
            sample_steps(led, [0], [0], walk, conditioning=Conditioning(size=(16, 16)))
        )[-1].x
    assert torch.allclose(drawn["flat"], drawn["one"], atol=1e-5)
    assert not torch.allclose(drawn["s"], drawn["one"], atol=1e-2)


def test_events_are_the_steps_of_each_batch_and_then_its_images(parts):
    items, seeds, walk = [0, 1, 2], [7, 8, 9], draws(parts)
    events = list(generate(parts, items, seeds, walk, batch=2))
    kinds = [type(event) for event in events]
    assert kinds == [*[Step] * 5, Done, Done, *[Step] * 5, Done]
    assert [event.row for event in events if isinstance(event, Done)] == [0, 1, 2]
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.rows for step in steps[4:6]] == [range(0, 2), range(2, 3)]
    assert [(step.number, step.t) for step in steps[:5]] == [(i, i / 4) for i in range(5)]
    images = sample_images(parts, items, seeds, walk, batch=2)
    for event in events:
        if isinstance(event, Done):
            assert torch.equal(event.pixels, images[event.row])


def test_iterating_no_further_cancels(parts):
    calls = []
    parts.network.register_forward_hook(lambda *_: calls.append(1))
    events = generate(parts, [0], [0], draws(parts))
    assert (next(events).number, next(events).number) == (0, 1)
    events.close()
    assert len(calls) == 1


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("solver", ["euler", "heun", "unipc2", "dopri5", "sde"])
@pytest.mark.parametrize("prediction", ["v", "x1"])
def test_previews_are_the_clean_prediction_and_cost_nothing(solver, prediction, scale):
    """They are x + (1 − t)·v of the guided field; x and the number of evaluations don't change."""
    parts = other(objective=pick("flow", prediction=prediction))
    walk = draws(parts, solver=pick(solver), guidance=pick("cfg", scale=scale))
    calls = []
    parts.network.register_forward_hook(lambda *_: calls.append(1))
    plain = [step.x for step in sample_steps(parts, [0, 1], [3, 4], walk)]
    evaluations, previews, states = len(calls), [], []
    calls.clear()
    for step in sample_steps(parts, [0, 1], [3, 4], walk):
        states.append(step)
        previews.append(step.predict_x1())
    assert len(calls) == evaluations
    assert all(torch.equal(x, step.x) for x, step in zip(plain, states, strict=True))
    conds = [parts.text.encode(items) for items in ([0, 1], [None, None])]
    field, null = (parts.objective.field(parts.network, cond) for cond in conds)
    for step, x1 in zip(states[:-1], previews, strict=False):
        with torch.no_grad():
            v = field(step.x, step.t)
            v = null(step.x, step.t) + scale * (v - null(step.x, step.t))
        torch.testing.assert_close(x1, step.x + (1 - step.t) * v, atol=1e-5, rtol=1e-5)
    assert torch.equal(previews[-1], states[-1].x)


def test_seeds_and_prompts_must_pair_up(parts):
    with pytest.raises(ValueError, match="1 seeds for 2 items"):
        sample_images(parts, [0, 1], [0], draws(parts))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "debug"
    assert main(["train", "debug", "--out", str(where)]) == 0
    return where


def test_files_say_how_they_were_made(run, tmp_path):
    asked = ["--label", "5", "--n", "3", "--seed", "9", "--steps", "3", "--solver", "heun"]
    assert main(["generate", str(run), *asked, "--guidance", "2", "--out", str(tmp_path)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("5-10.png", "5-11.png", "5-9.png", "sheet.png"),
    ]
    with Image.open(tmp_path / "5-10.png") as picture:
        text = picture.text
    assert text["parameters"].startswith("5\nSteps: 3, Sampler: heun, CFG scale: 2.0, Seed: 10")
    about = json.loads(text["pathline"])
    assert (about["seed"], about["weights"], about["model"]) == (10, "EMA 0.9", "debug")


def test_a_seed_from_a_file_draws_that_picture_again_and_overwrites_nothing(run, tmp_path):
    asked = ["--label", "5", "--out", str(tmp_path)]
    main(["generate", str(run), *asked, "--n", "3", "--seed", "9"])
    main(["generate", str(run), *asked, "--n", "1", "--seed", "10"])
    first, again = (pixels(tmp_path / name) for name in ("5-10.png", "5-10-2.png"))
    assert np.abs(first - again).max() <= 1


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture, dtype=int)


def test_a_trajectory_is_a_strip_and_a_gif(run, tmp_path):
    asked = ["--class-grid", "--n", "1", "--steps", "3", "--trajectory", "--out", str(tmp_path)]
    assert main(["generate", str(run), *asked]) == 0
    with Image.open(tmp_path / "trajectory.gif") as moving:
        assert moving.n_frames == 4
    assert (tmp_path / "trajectory.png").is_file()


BAD = {
    "a label out of range": (["--label", "10"], "0 … 9"),
    "a class that is none": (["cat"], "no class 'cat'"),
    "a solver that is none": (["--solver", "huen"], "Did you mean 'heun'"),
    "an EMA that is not kept": (["--ema", "0.5"], r"--ema 0.5 is wrong"),
    "two ways to ask": (["--label", "1", "--class-grid"], "one of them"),
    "no picture": (["--n", "0"], "1 or more"),
    "no step": (["--steps", "0"], "1 or more"),
    "an unknown option of a row": (["guidance.scael=2"], "Did you mean 'scale'"),
    "an unknown setting": (["stps=2"], "stps is no sampling setting. Did you mean 'steps'"),
    "a setting of the training": (["train.updates=2"], "can't be changed after training"),
    "an option as a setting": (["n=3"], "Write --n 3"),
    "no weaker network": (["guidance=autoguidance"], "--weak RUN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_exit_2(run, case, capfd, tmp_path):
    asked, words = BAD[case]
    assert main(["generate", str(run), *asked, "--out", str(tmp_path / "out")]) == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "Traceback" not in told
    assert re.search(words, told), told
