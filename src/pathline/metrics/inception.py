"""The Inception network that FID is defined by (the graph of 2015-12-05, 1008 classes).

It differs from the one in torchvision: average pools leave the padding out, and the last mixed
block pools by maximum. Structure after mseitzer/pytorch-fid:src/pytorch_fid/inception.py; modules
are named as in its weights file.
"""

import pickle
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, linear, max_pool2d, relu

from pathline.files import digest
from pathline.metrics.feature import Feature, in_batches, resized
from pathline.ranges import Positive

SIZE, WIDTH, CLASSES = 299, 2048, 1008
FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

# A stage is a pool, a convolution (name, channels, kernel) or a fork of convolutions; a lane is a
# row of stages; a mixed block is lanes side by side. Convolutions named in HALVING have stride 2.
Stage = str | tuple
HALVING = {
    "Mixed_6a": ("branch3x3", "branch3x3dbl_3"),
    "Mixed_7a": ("branch3x3_2", "branch7x7x3_4"),
}
TALL, LONG = (7, 1), (1, 7)


def _a(pool: int) -> tuple[tuple[Stage, ...], ...]:
    return (
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("average", ("branch_pool", pool, 1)),
    )


def _c(mid: int) -> tuple[tuple[Stage, ...], ...]:
    seven = (("branch7x7_1", mid, 1), ("branch7x7_2", mid, LONG), ("branch7x7_3", 192, TALL))
    double = ((mid, 1), (mid, TALL), (mid, LONG), (mid, TALL), (192, LONG))
    return (
        (("branch1x1", 192, 1),),
        seven,
        tuple((f"branch7x7dbl_{i}", *stage) for i, stage in enumerate(double, start=1)),
        ("average", ("branch_pool", 192, 1)),
    )


def _e(pool: str) -> tuple[tuple[Stage, ...], ...]:
    def fork(name: str) -> tuple:
        return ("fork", (f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1)))

    return (
        (("branch1x1", 320, 1),),
        (("branch3x3_1", 384, 1), fork("branch3x3_2")),
        (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")),
        (pool, ("branch_pool", 192, 1)),
    )


MIXED = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": (
        (("branch3x3", 384, 3),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("halve",),
    ),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": (
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)),
        tuple(
            (f"branch7x7x3_{i}", 192, kernel)
            for i, kernel in enumerate((1, LONG, TALL, 3), start=1)
        ),
        ("halve",),
    ),
    "Mixed_7b": _e("average"),
    "Mixed_7c": _e("most"),
}
POOLS = {
    "average": lambda x: avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "most": lambda x: max_pool2d(x, 3, stride=1, padding=1),
    "halve": lambda x: max_pool2d(x, 3, stride=2),
}


class Conv(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self, into: int, out: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True
    ):
        super().__init__()
        tall, long = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (tall // 2, long // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(into, out, (tall, long), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Lanes side by side; out: channels of all of them together."""

    def __init__(self, into: int, name: str):
        super().__init__()
        self.lanes = MIXED[name]
        self.out = sum(self._add(lane, into, HALVING.get(name, ())) for lane in self.lanes)

    def _add(self, lane: tuple[Stage, ...], channels: int, halving: tuple[str, ...]) -> int:
        for stage in lane:
            if isinstance(stage, str):
                continue
            forks = stage[1:] if stage[0] == "fork" else (stage,)
            for name, out, kernel in forks:
                half = name in halving
                self.add_module(name, Conv(channels, out, kernel, 2 if half else 1, pad=not half))
            channels = sum(out for _, out, _ in forks)
        return channels

    def _walk(self, lane: tuple[Stage, ...], x: Tensor) -> Tensor:
        for stage in lane:
            if isinstance(stage, str):
                x = POOLS[stage](x)
            elif stage[0] == "fork":
                x = torch.cat([self.get_submodule(name)(x) for name, *_ in stage[1:]], 1)
            else:
                x = self.get_submodule(stage[0])(x)
        return x

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return torch.cat([self._walk(lane, x) for lane in self.lanes], 1)


class Inception(nn.Module):
    """Pictures [b 3 299 299] in [-1, 1] to the pooled vector [b 2048]; `fc` gives the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, pad=False)
        channels = 192
        for name in MIXED:
            block = Mixed(channels, name)
            self.add_module(name, block)
            channels = block.out
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(POOLS["halve"](x)))
        x = POOLS["halve"](x)
        for name in MIXED:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def inception(
    real: UInt8[Tensor, "n c h w"],
    labels: Tensor | None,
    device: torch.device,
    *,
    path: Path | None = None,
    resize: Literal["bilinear", "clean"] = "bilinear",
    batch: Positive = 64,
) -> Feature:
    """The pooled vector of the Inception network of FID; its weights are read or downloaded.

    path: the weights' file (.pth or .safetensors); by default it is downloaded. resize: bilinear
    as pytorch-fid, clean as clean-fid. Logits leave out the bias, as the graph's users do.
    """
    del real, labels
    file = path or _downloaded()
    network = read_weights(file).to(device)
    # It is in the note: scores by other weights can't be compared.
    sha256 = digest(file)
    origin = "as published" if sha256 == SHA256 else f"sha256 {sha256[:12]}"

    def run(part: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return network(_scaled(part.to(device), resize))

    def embed(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, batch, run)

    def logits(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, batch, lambda part: linear(run(part), network.fc.weight))

    note = f"weights {file.name}, {origin}"
    return Feature(f"inception-{resize}{SIZE}", WIDTH, embed, note, logits)


def read_weights(file: Path) -> Inception:
    """The network with the weights of a file, ready to use; ValueError for any other file."""
    if not file.is_file():
        raise FileNotFoundError(f"there are no Inception weights at {file}; fetch {URL}")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{file} can't be read as weights: {error}") from error
    # Names and shapes without memory; the file's tensors are then used directly.
    with torch.device("meta"):
        network = Inception()
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    _refuse_other(file, state, shapes)
    counts = {k: torch.zeros((), dtype=torch.long) for k in shapes if k.endswith("_tracked")}
    network.load_state_dict({**counts, **state}, assign=True)
    return network.eval().requires_grad_(False).float()


def _refuse_other(file: Path, state: object, shapes: dict[str, torch.Size]) -> None:
    """Weights of another network: torchvision's, say, or a part of ours."""
    have = state if isinstance(state, dict) else {}
    needed = {key: shape for key, shape in shapes.items() if not key.endswith("_tracked")}
    wrong = [key for key, shape in needed.items() if getattr(have.get(key), "shape", ()) != shape]
    more = [key for key in have if key not in shapes]
    if wrong or more:
        raise ValueError(
            f"{file} does not hold the Inception weights of FID: {len(wrong)} of {len(needed)} "
            f"tensors are missing or of another shape ({', '.join(wrong[:3]) or 'none'}), "
            f"{len(more)} are unknown ({', '.join(more[:3]) or 'none'}); fetch {URL}"
        )


def _downloaded() -> Path:
    """The published file in torch's cache, checked by its digest."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(file), hash_prefix=SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"the Inception weights could not be downloaded ({error}); fetch {URL} "
                "elsewhere and give its path, or use features=pca, which needs no weights"
            ) from error
    # Checked each time: a broken file would change every score without an error.
    if (sha256 := digest(file)) != SHA256:
        raise ValueError(f"{file} is not the published file (sha256 {sha256}); delete it")
    return file


def _scaled(pixels: UInt8[Tensor, "n c h w"], mode: str) -> Float[Tensor, "n 3 299 299"]:
    """To about [-1, 1], each mode as the program that it follows."""
    if mode == "clean":
        return resized(pixels, SIZE, "clean") / 128 - 1
    return resized(pixels, SIZE, "bilinear") / 127.5 - 1
