"""What a codec's training and a trained codec refuse: one message, and nothing is written."""

import json
import re
from pathlib import Path

import pytest

from pathline.codecs.own import trained
from pathline.recipes.codec import train as recipe
from pathline.types import Facts

TINY = [
    *("network.width=8", "network.depth=1", "train.batch=16", "train.log_every=1"),
    *("train.validate_every=0", "train.sample_every=0", "data.holdout=0.1"),
]
SCENES = [*TINY, "data.source.count=40", "network.patch=4"]
FACTS = Facts(3, 32, 32)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def codec(what=None, *overrides, out=None, **flags):
    flags = {"device": "cpu", **flags} if "resume" not in flags else flags
    return recipe.codec_train(what, *overrides, out=out and Path(out), **flags)


BAD = {
    "a missing run": (lambda: codec(resume="nowhere"), "does not exist"),
    "a flow's run": (lambda: codec(resume="flow"), r"no codec.yaml. .pathline codec train"),
    "latest without runs": (lambda: codec(resume="latest"), "no  ?run under"),
    "a folder that holds something": (lambda: codec("digits-vq", out="flow"), "not empty"),
    "an unknown preset": (lambda: codec("shapes-kk"), "Did you mean 'shapes-kl'"),
    "a preset of flows": (lambda: codec("digits"), "Did you mean 'digits-vq'"),
    "an unknown key": (lambda: codec("digits-vq", "train.udpates=3"), "Did you mean train.updates"),
    "a key of flows": (lambda: codec("digits-vq", "train.strategy=ddp"), "not a setting"),
    "an unknown row": (lambda: codec("digits-vq", "network=vqvea"), "Did you mean 'vqvae'"),
    "an option of another row": (lambda: codec("digits-vq", "network.kl=1"), "no option 'kl'"),
    "a size that the factor does not divide": (
        lambda: codec("digits-vq", "data.size=9"),
        "image of 9x9 is wrong .* multiples of 2",
    ),
    "a factor of three": (lambda: codec("digits-vq", "network.factor=3"), "power of two"),
    "nothing compared": (lambda: codec("digits-vq", "loss.l1=0", "loss.mse=0"), "compares nothing"),
    "perception without weights": (
        lambda: codec("shapes-kl", "loss.perceptual=1"),
        "needs the weights of VGG",
    ),
    "perception of grey": (
        lambda: codec("digits-vq", "loss.perceptual=1", "loss.vgg=x.pth"),
        "colour images",
    ),
    "a missing vgg": (
        lambda: codec("shapes-kl", *SCENES, "loss.perceptual=1", "loss.vgg=none.pth"),
        "loss.vgg=none.pth .* no such file",
    ),
    "a critic of too many layers": (
        lambda: codec("digits-vq", "critic.weight=1", "critic.layers=5"),
        "halves 8 pixels too often",
    ),
    "all held out": (lambda: codec("digits-vq", "data.holdout=0.9999"), "leaves none"),
    "no folder": (lambda: codec("emoji-kl"), "emoji"),
    "a share above one": (
        lambda: codec("digits-vq", "loss.equivariance=2"),
        "must be a number in \\[0, 1\\]",
    ),
    "a codec that is nowhere": (
        lambda: trained(FACTS, path="nowhere"),
        "no trained codec",
    ),
    "a codec of other channels": (
        lambda: trained(Facts(1, 8, 8), path="colour"),
        "3 channel.*data.channels=3",
    ),
    "a codec.json of nothing": (lambda: trained(FACTS, path="torn"), "network is missing"),
    "a codec of a later kind": (lambda: trained(FACTS, path="later"), "wavelets is no network"),
    "a constant channel": (lambda: trained(FACTS, path="flat"), "is constant"),
}
ABOUT = {
    "network": "kl_small",
    "options": {},
    "pixels": 3,
    "channels": 4,
    "factor": 4,
    "mean": [0.0] * 4,
    "std": [1.0] * 4,
    "sha256": "0" * 64,
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_nothing_is_written(case):
    Path("flow").mkdir()
    Path("flow/run.yaml").write_text("name: mine\n")
    changes = {"colour": {}, "later": {"network": "wavelets"}, "flat": {"std": [1, 0, 1, 1]}}
    for name, change in changes.items():
        Path(name).mkdir()
        Path(name, "codec.json").write_text(json.dumps(ABOUT | change))
    Path("torn").mkdir()
    Path("torn/codec.json").write_text("{")
    act, words = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        act()
    assert re.search(words, " ".join(str(caught.value).split())), str(caught.value)
    assert not list(Path(".").glob("runs/*"))
