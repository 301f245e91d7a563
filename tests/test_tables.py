"""Every row of every table binds with its defaults and keeps its contract.

A new row is tested here without a line being written, except where it needs an option (GIVEN).
"""

import pytest
import torch
from torch import nn

from pathline.assemble import sampler
from pathline.codecs.normalise import denormalise, normalise
from pathline.config.pick import Pick, bind, options_of
from pathline.config.run import PLACES, Sample
from pathline.flow.guidance import Push
from pathline.flow.paths import PATHS, STRAIGHT, draw_point
from pathline.objectives.terms import compose, mse
from pathline.tables import TABLES
from pathline.types import PLAIN_CALL, Batch, Cond, Facts, Frame, Output, Point

FACTS = Facts(3, 8, 8, names=("cat", "dog"), words=("a", "cat", "dog"))
GIVEN = {  # what a row can't do without, or what makes it small enough for a test
    ("backbone", "dit"): {"depth": 1, "width": 16, "heads": 2},
    ("backbone", "ddt"): {"depth": 1, "decoder": 1, "width": 16, "heads": 2},
    ("sample.sharing", "program"): {"calls": 2},
    ("backbone", "cross_dit"): {"depth": 1, "width": 16, "heads": 2},
    ("backbone", "stream_dit"): {"depth": 1, "width": 16, "heads": 2},
    ("data.source", "shapes"): {"count": 3},
    ("data.source", "hub"): {"repo": "nobody/nothing"},
    ("eval.feature", "classifier"): {"updates": 2},
    ("eval.feature", "inception"): {"path": "missing.safetensors"},
    ("eval.feature", "dinov2"): {"model": "./missing"},
    ("eval.feature", "clip"): {"model": "./missing"},
}
WEIGHTS = ("inception", "dinov2", "clip")  # of others; test_encoders and test_inception read some
# Weights of others, tiny ones of which tests/codecs and tests/text read; here there are none.
CODECS = ("kl", "dcae", "taesd", "taef2", "rae", "detok", "trained")
ENCODERS = ("t5", "t5gemma", "t5gemma2", "clip", "siglip2", "hidden", "encoder")
GIVEN |= {("codec", name): {"path": "./missing"} for name in CODECS}
GIVEN |= {("text", name): {"path": "./missing"} for name in ENCODERS}
GIVEN |= {("vision", "encoder"): {"path": "./missing"}}
GIVEN |= {("text", "pair"): {"states": "./missing", "pooled": "./missing"}}


def rows(table):
    return pytest.mark.parametrize("name", TABLES[table])


def bound(table, name, **options):
    options = {**GIVEN.get((table, name), {}), **options}
    return bind(TABLES[table], Pick(name, options), PLACES[table])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed))


def test_every_table_has_its_place_and_its_test():
    assert TABLES.keys() == PLACES.keys()
    marks = [mark for test in globals().values() for mark in getattr(test, "pytestmark", [])]
    tested = [mark.args[1] for mark in marks if mark.name == "parametrize"]
    assert [table for table, row in TABLES.items() if row not in tested] == []


@rows("path")
def test_path(name):
    path = bound("path", name)()
    assert path is PATHS[name]
    t = torch.tensor([0.25, 0.5])
    assert all(
        torch.allclose(f(t), torch.tensor([f(0.25), f(0.5)])) for f in (path.alpha, path.sigma)
    )


@rows("times")
def test_draw(name):
    draw, x1 = bound("times", name), some(256, 1, 2, 2)
    t = draw(x1, rng())
    assert t.shape == (256,)
    assert t.dtype == torch.float32
    assert ((t >= 0) & (t <= 1)).all()
    assert torch.equal(t, draw(x1, rng()))
    assert not torch.equal(t, draw(x1, rng(1)))


@rows("sample.grid")
def test_grid(name):
    grid = bound("sample.grid", name)(5)
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert list(grid) == sorted(set(grid))
    assert all(type(t) is float for t in grid)


@rows("sample.solver")
def test_solver(name):
    """A field that is the same everywhere carries x exactly; a step with noise ends somewhere."""
    calls, x0, v = [], some(3, 1, 4, 4), some(3, 1, 4, 4, seed=1)

    def noise(x):
        calls.append(x)
        return some(*x.shape, seed=2 + len(calls))

    walk = sampler(Sample(solver=Pick(name), steps=4), STRAIGHT).walk
    states = list(walk(lambda x, _t, *_later: v.expand_as(x), x0, noise))
    times, ends = [t for t, _ in states], (states[0][1], states[-1][1])
    assert (times[0], times[-1]) == (0.0, 1.0)
    assert times == sorted(set(times))
    assert torch.equal(ends[0], x0)
    assert ends[1].isfinite().all()
    assert calls or torch.allclose(ends[1], x0 + v, atol=1e-5)


@rows("sample.guidance")
def test_guidance(name):
    x, one, two = some(3, 2, 4, 4), some(3, 2, 4, 4, seed=1), some(3, 2, 4, 4, seed=2)
    field, other = (lambda _x, _t: one), (lambda _x, _t: two)
    push = Push(0.05, some(2, 4, 4))
    for t in (0.5, torch.tensor([0.0, 0.5, 1.0])):
        assert bound("sample.guidance", name)(field, other, push)(x, t).shape == x.shape
    neutral = {"scale": 1.0} if "scale" in options_of(TABLES["sample.guidance"][name]) else {}
    assert bound("sample.guidance", name, **neutral)(field, other) is field


@rows("sample.sharing")
def test_sharing(name):
    times = bound("sample.sharing", name)((0.0, 0.25, 0.5, 1.0), lambda: torch.eye(3))
    assert all(type(t) is float for t in times)
    assert list(times) == sorted(set(times))
    assert times[:1] == (() if name == "none" else (0.0,))


@rows("coupling")
def test_coupling(name):
    x0, x1 = some(12, 1, 2, 2), some(12, 1, 2, 2, seed=1)
    paired = bound("coupling", name)(x0, x1, Cond(labels=torch.arange(12) % 3))
    assert sorted(paired.flatten(1).tolist()) == sorted(x0.flatten(1).tolist())


@rows("codec")
def test_codec(name):
    if name in CODECS:
        with pytest.raises((ValueError, FileNotFoundError), match="missing"):
            bound("codec", name)(FACTS)
        return
    codec = bound("codec", name)(FACTS)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=rng())
    raw = codec.encode(pixels)
    assert raw.shape == (2, codec.channels, 8 // codec.factor, 8 // codec.factor)
    assert codec.mean.shape == codec.std.shape == (codec.channels,)
    assert torch.allclose(denormalise(codec, normalise(codec, raw)), raw, atol=1e-5)
    back = codec.decode(raw)
    assert (back.shape, back.dtype) == (pixels.shape, torch.uint8)


@rows("vision")
def test_vision(name):
    if name != "none":
        with pytest.raises((ValueError, FileNotFoundError), match="missing"):
            bound("vision", name)()
        return
    vision = bound("vision", name)()
    assert (vision.width, vision.id) == (0, "")
    with pytest.raises(ValueError, match="vision=encoder"):
        vision.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@rows("text")
def test_text(name):
    if name in (*ENCODERS, "pair"):
        with pytest.raises((ValueError, FileNotFoundError), match="missing"):
            bound("text", name)(FACTS)
        return
    text = bound("text", name)(FACTS)
    asked = [None, None] if name == "none" else ["cat", None]
    cond = text.encode(asked)
    for value, null in zip(cond, text.null, strict=True):
        assert (value is None) == (null is None)
        assert value is None or (len(value), len(null)) == (2, 1)
    with pytest.raises(ValueError, match="zebra"):
        text.encode(["zebra"])


@rows("backbone")
def test_backbone(name):
    network = bound("backbone", name)(Frame(3, 8, 8, classes=2))
    x, t, cond = some(2, 3, 8, 8), torch.tensor([0.0, 0.7]), Cond(labels=torch.tensor([0, 2]))
    out = network(x, t, cond)
    assert torch.equal(out.value, torch.zeros_like(x))  # lets nothing through at first
    (out.value - x).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


class Network(nn.Module):
    """The least that can be learnt."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4, 1))

    def forward(self, x, t, cond, call=PLAIN_CALL):
        r, y, s = call.r, call.y, call.s
        assert t.shape == (len(x),)
        assert call.hidden is None
        assert (y is None) == (s is None)
        assert cond.labels is not None
        assert r is None or r.shape == t.shape
        return Output((x if y is None else y) * self.gain.mean())


@rows("objective")
@pytest.mark.parametrize("training", [True, False])
def test_objective(name, training):
    """Training drops every condition here, validation none."""
    objective, network = bound("objective", name, dropout=1.0)(STRAIGHT), Network()
    cond, null = Cond(labels=torch.tensor([0, 1, 0])), Cond(labels=torch.tensor([2]))
    labels = []

    def draw(x1, cond, rng):
        labels.extend(cond.labels.tolist())
        ways = {"draw": bound("times", "uniform"), "couple": bound("coupling", "independent")}
        return draw_point(x1, cond, rng, path=STRAIGHT, **ways)

    batch = Batch(some(3, 2, 4, 4), cond, null, torch.arange(3))
    criterion = compose({"mse": (1.0, mse)})
    loss, terms = objective.loss(network, batch, rng(), draw, criterion, training=training)
    loss.backward()
    assert set(labels) == ({2} if training else {0, 1})
    assert network.gain.grad is not None
    assert all(value.isfinite() for value in (loss, *terms.values()))
    assert objective.field(network, cond)(batch.x1, 0.5).shape == batch.x1.shape


@rows("terms")
def test_term(name):
    xt, t = some(3, 2, 4, 4), torch.full((3,), 0.5)
    value = some(3, 2, 4, 4, seed=1).requires_grad_()
    hidden = some(3, 4, 8, seed=2).requires_grad_()
    shown = some(3, 6, 2, 2, seed=3).requires_grad_()
    point = Point(xt, xt, t, xt, xt, features=some(3, 6, 2, 2, seed=4))
    got = bound("terms", name)(point, Output(value, hidden, projected=shown))
    assert got.shape == (3,)
    assert got.isfinite().all()
    got.sum().backward()
    assert [x for x in (value, hidden, shown) if x.grad is not None]


@rows("optimizer")
def test_optimizer(name):
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    optimizer = bound("optimizer", name)(network)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({*held}) == len(list(network.parameters()))
    before = [p.detach().clone() for p in held]
    network(some(5, 4)).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(p, was) for p, was in zip(held, before, strict=True))


@rows("schedule")
def test_schedule(name):
    schedule = bound("schedule", name)
    assert all(0 <= schedule(update, 20) <= 1 for update in range(20))
    assert max(schedule(update, 20) for update in range(20)) == 1
    warm = bound("schedule", name, warmup=4)
    assert [warm(update, 20) for update in range(3)] == pytest.approx([0.25, 0.5, 0.75], rel=0.1)


@rows("data.source")
def test_source(name, pictures, monkeypatch):
    given = {"path": str(pictures[name])} if name in pictures else {}
    make = bound("data.source", name, **given)
    if name == "hub":  # out of reach: it says so, and what else to do
        monkeypatch.setattr("datasets.load_dataset", _unreachable)
        with pytest.raises(ValueError, match=r"nobody/nothing.*source=folder"):
            make()
        return
    source = make()
    examples = [source.read(row) for row in range(3)]
    for example in examples:
        assert example.image.dtype == torch.uint8
        assert example.image.dim() == 3
        assert (example.caption is not None) == source.captioned
        assert (example.label is not None) == bool(source.names)
    assert source.count >= len({example.key for example in examples}) == 3
    assert [source.read(row).key for row in range(3)] == [example.key for example in examples]


def _unreachable(*_, **__):
    raise ConnectionError("no net")


@rows("eval.feature")
def test_a_feature_turns_pictures_into_vectors_and_names_its_resize(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8, generator=rng())
    row = bound("eval.feature", name)
    if name in WEIGHTS:
        with pytest.raises((ValueError, OSError), match="missing"):
            row(real, None, torch.device("cpu"))
        return
    feature = row(real, torch.arange(20) % 2, torch.device("cpu"))
    vectors = feature.embed(real[:5])
    assert vectors.shape == (5, feature.width)
    assert vectors.isfinite().all()
    assert not torch.equal(vectors[0], vectors[1])
    torch.testing.assert_close(feature.embed(real[2:3])[0], vectors[2])
    assert feature.name.startswith(name)
