"""The model that captions: any image-text-to-text model of transformers, by name or folder."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from pathline import hub
from pathline.dtypes import Dtype
from pathline.weights import DTYPES

CAPTIONING = hub.Use("captioning model", "--model", "caption")


class Answer(NamedTuple):
    """What the model answered. is_whole: it ended before it was cut."""

    text: str
    is_whole: bool


# (images, prompts, seeds, temperature) -> answers; a temperature of 0 is greedy
Ask = Callable[[Sequence[Image.Image], Sequence[str], Sequence[int], float], list[Answer]]


def find_model(model: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a model, downloaded if need be, and its version: a commit, or a digest.

    Raises FileNotFoundError, with the way to fetch it, where it cannot be had.
    """
    location = hub.locate(model, CAPTIONING)
    if isinstance(location, Path):
        return hub.find_folder(location, CAPTIONING), hub.version_of(location)
    folder = hub.find_folder(location._replace(revision=revision or location.revision), CAPTIONING)
    return folder, hub.commit_of(folder)


def load_model(
    folder: Path,
    *,
    device: torch.device | None = None,
    dtype: Literal["auto", Dtype] = "auto",
    max_new_tokens: int = 512,
) -> Ask:
    """A function that runs the model of a folder. Raises ValueError where weights are missing."""
    network = hub.load_model(
        "AutoModelForImageTextToText",
        folder,
        CAPTIONING,
        dtype=DTYPES.get(dtype, dtype),
        use_safetensors=True,
    ).to(device or torch.device("cpu"))
    processor = _load_processor(folder)

    def ask(
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        seeds: Sequence[int],
        temperature: float,
    ) -> list[Answer]:
        # A generator for each image: a caption does not depend on its batch.
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds] if temperature else []
        noise = partial(_add_noise, rngs=rngs, temperature=temperature)
        inputs = _prepare(processor, images, prompts).to(network.device, network.dtype)
        return _generate(processor, network, inputs, [noise] if rngs else [], max_new_tokens)

    return ask


def _load_processor(folder: Path) -> Any:
    """The model's processor for still images, on Pillow, so that no torchvision is needed.

    transformers makes no processor that handles videos without torchvision; a class that leaves
    the videos out works.
    """
    hub.import_library(CAPTIONING)
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    # Video parts need torchvision; a processor without them serves for images.
    config = hub.read("AutoConfig", folder, CAPTIONING)
    reader: Any = PROCESSOR_MAPPING.get(type(config), None)
    parts = reader.get_attributes() if reader else []
    if any("video" in part for part in parts):
        still = classmethod(lambda _: [part for part in parts if "video" not in part])
        reader = type(reader.__name__, (reader,), {"get_attributes": still})
    else:
        reader = "AutoProcessor"
    processor = hub.read(reader, folder, CAPTIONING, backend="pil")
    if not getattr(processor, "chat_template", None):
        raise ValueError(
            f"--model={folder} is wrong because it has no chat template (chat_template.jinja or "
            ".json). Take an instruction-tuned model."
        )
    return processor


def _prepare(processor: Any, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
    """Images and prompts as model inputs, padded on the left so that answers begin together."""
    chats = [
        [{"role": "user", "content": [
            {"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
        for image, prompt in zip(images, prompts, strict=True)
    ]  # fmt: skip
    return processor.apply_chat_template(
        chats,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


@torch.inference_mode()
def _generate(
    processor: Any, network: Any, inputs: Any, noise: list[Any], max_new_tokens: int
) -> list[Answer]:
    """Greedy decoding; all randomness is in `noise`, a logits processor."""
    greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    tokens = network.generate(
        **inputs, **greedy, max_new_tokens=max_new_tokens, logits_processor=noise
    )
    answers = tokens[:, inputs["input_ids"].shape[1] :].cpu()
    # An answer without an end token was cut at max_new_tokens.
    ends = network.generation_config.eos_token_id
    ends = torch.tensor([] if ends is None else ends).reshape(-1)
    is_whole = torch.isin(answers, ends).any(1).tolist()
    texts = processor.batch_decode(answers, skip_special_tokens=True)
    return [Answer(*pair) for pair in zip(texts, is_whole, strict=True)]


def _add_noise(
    _: Tensor, scores: Tensor, *, rngs: list[torch.Generator], temperature: float
) -> Tensor:
    """Scores whose maximum is a sample of softmax(scores / temperature), row by row (Gumbel).

    Each row has its own generator, so that an image gets the same answer alone and in a batch.
    """
    samples = [torch.empty(scores.shape[1]).exponential_(generator=rng) for rng in rngs]
    return scores.float() / temperature - torch.stack(samples).log().to(scores.device)
