"""The network of FID: keys, shapes, pools of its own kind, and files that hold something else."""

import hashlib
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d

from pathline.metrics import inception as room
from pathline.metrics.feature import resized
from pathline.metrics.inception import Inception, inception, read_weights

CPU = torch.device("cpu")
# of the names and shapes of pytorch-fid 0.3.0's network, built on torchvision 0.29.2
LISTING = "8cdd2faeb41211e17f0fb47e66168d0cb1f981aa773b5f44e5b9cc93857fe492"


@pytest.fixture(scope="module")
def network():
    """Random weights, each layer's output brought to scale, so that what goes in shows behind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Inception().requires_grad_(False)
    norms = [layer for layer in found.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    found(torch.randn(2, 3, 139, 139, generator=torch.Generator().manual_seed(1)))
    for layer in norms:
        layer.momentum = 0.1
    return found.eval()


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    state = network.state_dict()
    torch.save(state, folder / "whole.pth")
    bare = {key: value for key, value in state.items() if not key.endswith("_tracked")}
    save_file(bare, folder / "bare.safetensors")
    return folder


def pictures(n=1, c=3, side=32):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, c, side, side), dtype=torch.uint8, generator=rng)


def test_size_and_names_are_the_published_files(network):
    """566 entries, 23 850 960 numbers to train; 4 bytes each make the file of 95.6 MB."""
    state = network.state_dict()
    assert len(state) == 566
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * 2049
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7dbl_4.conv.weight": (128, 128, 7, 1),
        "Mixed_6e.branch7x7_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch3x3_2.bn.num_batches_tracked": (),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    listing = "\n".join(f"{key} {list(value.shape)}" for key, value in sorted(state.items()))
    assert hashlib.sha256(listing.encode()).hexdigest() == LISTING


def test_maps_have_the_sides_of_the_paper(network):
    maps = {}
    for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: maps.update({name: out})
        )
    vector = network(torch.zeros(1, 3, 299, 299))
    assert torch.allclose(vector, maps["Mixed_7c"].flatten(2).mean(2))
    assert {name: tuple(found.shape[1:]) for name, found in maps.items()} == {
        "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_4a_3x3": (192, 71, 71),
        "Mixed_5d": (288, 35, 35),
        "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }


@pytest.mark.parametrize("name", ["Mixed_5b", "Mixed_5d", "Mixed_6b", "Mixed_6e", "Mixed_7b"])
def test_average_pools_leave_the_padding_out(network, name):
    block = network.get_submodule(name)
    into = block.branch_pool.conv.in_channels
    flat = torch.ones(1, into, 9, 9)  # stays flat only if the rim is divided by fewer
    pooled = block(flat)[:, -block.branch_pool.conv.out_channels :]
    assert torch.allclose(pooled, pooled[:, :, 4:5, 4:5].expand_as(pooled), atol=1e-6)
    wrong = block.branch_pool(avg_pool2d(flat, 3, 1, 1))
    assert not torch.allclose(wrong, pooled, atol=1e-3)


def test_the_last_block_pools_by_maximum(network):
    x = torch.randn(1, 2048, 8, 8, generator=torch.Generator().manual_seed(2))
    block = network.Mixed_7c
    pooled = block(x)[:, -192:]
    assert torch.allclose(pooled, block.branch_pool(max_pool2d(x, 3, 1, 1)), atol=1e-6)
    mean = block.branch_pool(avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    assert not torch.allclose(pooled, mean, atol=1e-2)


def test_lanes_stand_in_order(network):
    x = torch.randn(1, 1280, 8, 8, generator=torch.Generator().manual_seed(2))
    block = network.Mixed_7b
    mid, deep = block.branch3x3_1(x), block.branch3x3dbl_2(block.branch3x3dbl_1(x))
    wanted = [block.branch1x1(x), block.branch3x3_2a(mid), block.branch3x3_2b(mid)]
    wanted += [block.branch3x3dbl_3a(deep), block.branch3x3dbl_3b(deep)]
    assert torch.allclose(block(x)[:, :1856], torch.cat(wanted, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["whole.pth", "bare.safetensors"])
def test_weights_come_from_a_file(network, files, name):
    feature = inception(pictures(), None, CPU, path=files / name)
    assert (feature.name, feature.width) == ("inception-bilinear299", 2048)
    x = resized(pictures(), 299, "bilinear") / 255 * 2 - 1
    wanted = network(x)
    assert torch.allclose(feature.embed(pictures()), wanted, atol=1e-4)
    assert feature.logits is not None
    assert torch.allclose(feature.logits(pictures()), wanted @ network.fc.weight.T, atol=1e-4)
    assert f"{name}, sha256" in feature.note  # not the published file


def test_clean_is_another_feature(network, files):
    feature = inception(pictures(), None, CPU, path=files / "whole.pth", resize="clean", batch=1)
    assert feature.name == "inception-clean299"
    grey = pictures(c=1)
    x = (resized(grey, 299, "clean") - 128) / 128
    found, wanted = feature.embed(grey), network(x)
    assert torch.allclose(found, wanted, atol=1e-4)
    near = network(resized(grey, 299, "clean") / 127.5 - 1)  # pytorch-fid's scale
    assert not torch.allclose(wanted, near, atol=1e-2)


def spoil(state, key, value=None):
    return {k: v for k, v in state.items() if k != key} | (
        {key: value} if value is not None else {}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: spoil(s, "fc.weight", torch.zeros(1000, 2048)), "1 of 472 .*fc.weight"),
        (lambda s: spoil(s, "Mixed_5b.branch1x1.bn.bias"), "Mixed_5b.branch1x1.bn.bias"),
        (lambda s: s | {"AuxLogits.fc.bias": torch.zeros(3)}, "1 are unknown .*AuxLogits"),
        (lambda _: {"weight": torch.zeros(1)}, "472 of 472"),
    ],
)
def test_weights_of_another_network_are_refused(network, tmp_path, change, words):
    torch.save(change(network.state_dict()), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=words):
        read_weights(tmp_path / "other.pth")


def test_what_is_no_file_of_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Inception weights at"):
        inception(pictures(), None, CPU, path=tmp_path / "none.pth")
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of use")
        with pytest.raises(ValueError, match="can't be read as weights"):
            read_weights(tmp_path / name)


class Harm:
    def __reduce__(self):
        return print, ("ran",)


def test_no_code_is_run_from_a_file(tmp_path, capsys):
    torch.save({"fc.weight": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(ValueError, match="can't be read as weights"):
        read_weights(tmp_path / "harm.pth")
    assert "ran" not in capsys.readouterr().out


def test_without_a_net_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*_, **__):
        raise URLError("no net")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(ValueError, match="use features=pca"):
        inception(pictures(), None, CPU)


def test_a_torn_download_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / room.FILE).write_bytes(b"half")
    with pytest.raises(ValueError, match="not the published file"):
        inception(pictures(), None, CPU)
