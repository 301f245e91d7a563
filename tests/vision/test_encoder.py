"""Frozen vision encoders agree with transformers' own, whatever stands before their patches."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import interpolate

from pathline.config.pick import function_of
from pathline.vision.encoder import PROCESSOR
from pathline.vision.table import VISION

encoder = function_of(VISION["encoder"])
MEAN, STD = (torch.tensor(c).view(3, 1, 1) for c in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))
BEFORE = {  # tokens before those of the patches
    **{"dinov2": 1, "dinov2-registers": 5, "dinov3": 5, "vit": 1, "ijepa": 0},
    **{"clip": 1, "clip-vision": 1, "siglip": 0},
}


def pictures(side=24, channels=3):
    return torch.randint(256, (2, channels, side, side), dtype=torch.uint8)


def shown(pixels):
    return (pixels / 255 - MEAN) / STD


def grid(tokens, before, rows=3):
    return tokens[:, before:].transpose(1, 2).unflatten(2, (rows, -1))


@pytest.mark.parametrize("layer", [None, 1, -2])
@pytest.mark.parametrize("name", BEFORE)
def test_features_are_the_patches_that_transformers_gives(name, layer, eyes):
    found, pixels = eyes(name), pictures()
    vision = encoder(path=str(found.folder), size=24, layer=layer)
    part = getattr(found.whole, "vision_model", found.whole)
    with torch.no_grad():
        theirs = part(pixel_values=shown(pixels), output_hidden_states=True)
    tokens = theirs.last_hidden_state if layer is None else theirs.hidden_states[layer]
    got = vision.encode(pixels)
    assert got.shape == (2, vision.width, 3, 3) == (2, 16, 3, 3)
    torch.testing.assert_close(got, grid(tokens, BEFORE[name]), rtol=1e-4, atol=1e-4)
    assert not got.requires_grad


def test_an_encoder_that_hides_patches_is_told_to_show_all_in_order(eyes):
    found, pixels = eyes("mae"), pictures()
    got = encoder(path=str(found.folder), size=24).encode(pixels)
    whole, ratio = found.whole, found.whole.config.mask_ratio
    whole.config.mask_ratio = 0.0
    with torch.no_grad():
        mixed = whole(pixel_values=shown(pixels), noise=torch.rand(2, 9))
    whole.config.mask_ratio = ratio
    order = mixed.ids_restore[..., None].expand(-1, -1, 16)
    theirs = mixed.last_hidden_state[:, 1:].gather(1, order)
    torch.testing.assert_close(got, grid(theirs, 0), rtol=1e-4, atol=1e-4)


def test_patches_are_packed_for_siglip2_as_its_own_processor_does(eyes):
    transformers = pytest.importorskip("transformers")
    found, pixels = eyes("siglip2"), pictures()
    own = transformers.models.siglip2.image_processing_pil_siglip2
    flat = own.convert_image_to_patches(shown(pixels[0]).numpy(), 8)
    given = {
        "pixel_values": torch.tensor(flat)[None],
        "pixel_attention_mask": torch.ones(1, 9, dtype=torch.long),
        "spatial_shapes": torch.tensor([[3, 3]]),
    }
    with torch.no_grad():
        theirs = found.whole.vision_model(**given).last_hidden_state
    got = encoder(path=str(found.folder), size=24).encode(pixels)
    torch.testing.assert_close(got[:1], grid(theirs, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*BEFORE, "mae", "siglip2"])
def test_any_size_and_shape_of_picture_keeps_its_grid(name, eyes):
    vision = encoder(path=str(eyes(name).folder), size=32)
    assert vision.encode(pictures(20)).shape == (2, 16, 4, 4)
    wide = vision.encode(pictures(32)[:, :1, :8])  # grey, four times as wide as high
    assert wide.shape == (2, 16, 2, 8)


def test_smaller_pictures_are_enlarged_and_grey_ones_have_three_channels(eyes):
    vision, pixels = encoder(path=str(eyes("dinov2").folder), size=24), pictures(12, channels=1)
    large = interpolate(pixels.float(), (24, 24), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.no_grad():
        theirs = eyes("dinov2").whole(shown(large.expand(-1, 3, -1, -1))).last_hidden_state
    torch.testing.assert_close(vision.encode(pixels), grid(theirs, 1), rtol=1e-4, atol=1e-4)


def test_the_width_is_known_and_the_name_whole_before_weights_are_read(eyes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(eyes("dinov2").folder, folder)
    here, there = (encoder(path=str(f), size=24) for f in (folder, eyes("dinov2").folder))
    assert here.id == there.id
    assert here.id != encoder(path=str(folder), size=32).id
    assert here.id != encoder(path=str(folder), size=24, layer=-1).id
    (folder / "model.safetensors").write_bytes(b"broken")
    broken = encoder(path=str(folder), size=24)
    assert broken.width == 16
    assert broken.id != there.id
    with pytest.raises(ValueError, match="can't be read by AutoModel"):
        broken.encode(pictures())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bert", {}, "a 'bert' model does not have one token"),
        ("swin", {}, "a 'swin' model does not have one token"),
        ("dinov2", {"size": 20}, r"vision.size=20 .* patches of 8 .* such as 16"),
        ("dinov2", {"layer": 4}, r"vision.layer=4 .* 0 … 3, or -1 … -4"),
    ],
)
def test_what_can_not_be_read_is_refused_by_name(name, options, words, eyes):
    with pytest.raises(ValueError, match=words):
        encoder(path=str(eyes(name).folder), **{"size": 24, **options})


def test_mean_and_std_of_the_pixels_must_be_told(eyes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(eyes("vit").folder, folder)
    (folder / PROCESSOR).write_text(json.dumps({"image_mean": 0.5}))
    with pytest.raises(ValueError, match=r"preprocessor_config.json has no image_mean"):
        encoder(path=str(folder))
    (folder / PROCESSOR).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config.json"):
        encoder(path=str(folder))


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_without_a_size_a_small_encoder_sees_what_it_was_made_for(name, eyes):
    found = eyes(name)
    side = found.whole.config.image_size // found.whole.config.patch_size
    assert encoder(path=str(found.folder)).encode(pictures()).shape[2:] == (side, side)
