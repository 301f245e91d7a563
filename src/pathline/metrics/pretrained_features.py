"""Pretrained image encoders from transformers: DINOv2 and CLIP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pathline import hub
from pathline.metrics.feature import Feature, in_batches, resized
from pathline.ranges import Positive

EXTRACTOR = hub.Use("feature extractor", "model", "eval")
# mean and standard deviation of the channels that the models were trained with
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIPS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def dinov2(
    real: UInt8[Tensor, "n c h w"],
    labels: Tensor | None,
    device: torch.device,
    *,
    model: str = "facebook/dinov2-large",
    size: Positive = 224,
    resize: Literal["bilinear", "clean"] = "clean",
    batch: Positive = 32,
) -> Feature:
    """The class token of DINOv2: closer to human judgement than Inception's features.

    model: a folder or a name on the hub. size: pixels of a side, a multiple of the patch.
    """
    del real, labels
    network = load(model, "dinov2").to(device)
    patch = network.config.patch_size
    if size < patch or size % patch:
        raise ValueError(
            f"size={size} is wrong because {model} has patches of {patch} pixels. Use multiples."
        )

    def embed(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        def run(part: Tensor) -> Tensor:
            square = _normal(resized(part.to(device), size, resize), IMAGENET)
            # The class token comes first, before registers and patches.
            return network(pixel_values=square).last_hidden_state[:, 0]

        return in_batches(pixels, batch, run)

    width = network.config.hidden_size
    return Feature(f"{Path(model).name}-{resize}{size}", width, embed)


def clip(
    real: UInt8[Tensor, "n c h w"],
    labels: Tensor | None,
    device: torch.device,
    *,
    model: str = "openai/clip-vit-large-patch14-336",
    resize: Literal["bilinear", "clean"] = "clean",
    batch: Positive = 32,
) -> Feature:
    """CLIP's projected image features, of length 1; CMMD is computed on these.

    model: a folder or a name on the hub.
    """
    del real, labels
    network = load(model, "clip").to(device)
    size = network.config.vision_config.image_size

    def embed(pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return in_batches(pixels, batch, lambda p: embed_images(network, p.to(device), resize))

    name = f"{Path(model).name}-{resize}{size}"
    return Feature(name, network.config.projection_dim, embed)


def embed_images(
    network: Any, pixels: UInt8[Tensor, "n c h w"], resize: Literal["bilinear", "clean"]
) -> Float[Tensor, "n d"]:
    """CLIP's vectors of images, of length 1."""
    square = resized(pixels, network.config.vision_config.image_size, resize)
    answer = network.get_image_features(pixel_values=_normal(square, CLIPS))
    return nn.functional.normalize(_pooled(answer).float())


def embed_texts(network: Any, ids: Tensor, mask: Tensor) -> Float[Tensor, "n d"]:
    """CLIP's vectors of texts, of length 1."""
    answer = network.get_text_features(input_ids=ids, attention_mask=mask)
    return nn.functional.normalize(_pooled(answer).float())


def load(model: str, kind: str) -> Any:
    """A model of transformers of the kind `clip` or `dinov2`, every weight read."""
    with _hint():
        network = hub.load_model("AutoModel", hub.locate(model, EXTRACTOR), EXTRACTOR)
    if network.config.model_type != kind:
        raise ValueError(
            f"model={model} is wrong because it is a {network.config.model_type!r} model. "
            f"Take one of the kind {kind!r}."
        )
    return network.float()


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model."""
    with _hint():
        return hub.read("AutoTokenizer", hub.locate(model, EXTRACTOR), EXTRACTOR)


@contextmanager
def _hint() -> Iterator[None]:
    """Errors for missing models name the features that need none."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Or use features=pca, which needs no weights.") from error


def _pooled(answer: Any) -> Tensor:
    """transformers 5 returns a record, 4 the vectors."""
    return answer if isinstance(answer, Tensor) else answer.pooler_output


def _normal(
    square: Float[Tensor, "n 3 h w"], channels: tuple[tuple[float, ...], tuple[float, ...]]
) -> Float[Tensor, "n 3 h w"]:
    mean, std = (square.new_tensor(c).view(3, 1, 1) for c in channels)
    return (square / 255 - mean) / std
