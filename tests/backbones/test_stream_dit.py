"""stream_dit: sizes by formula, blocks, places of any size, agreement with diffusers' Lumina 2."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from pathline.backbones.stream_dit import Block, stream_dit
from pathline.backbones.stream_shape import SHAPES, StreamShape
from pathline.backbones.table import BACKBONES
from pathline.nn.positions import axes, rotary_picture, rotary_text
from pathline.types import Cond, Frame

TINY = {"depth": 2, "width": 32, "heads": 2, "patch": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def counted(shape, frame):
    """All there is, part by part."""
    d, patch, text = shape.width, shape.patch**2 * frame.channels, frame.text_width
    hidden = -(-8 * d // 192) * 64
    plain = 4 * d**2 + 2 * d // shape.heads + 3 * d * hidden + 4 * d
    modulated = (shape.depth + shape.refiners) * (plain + 4 * d)
    words = shape.refiners * plain + text + text * d + d
    time = 256 * d + d + d**2 + d
    shared = 4 * d**2 + 4 * d
    ends = patch * d + d + d**2 + d + d * patch + patch
    return modulated + words + time + shared + ends


@pytest.mark.parametrize("size", SHAPES)
def test_parameter_counts(size):
    frame = Frame(32, 16, 16, text_width=384)
    with torch.device("meta"):
        network = stream_dit(frame, size=size)
    assert sum(p.numel() for p in network.parameters()) == counted(SHAPES[size], frame)


def test_sizes_go_from_a_laptop_to_a_billion():
    totals = [counted(shape, Frame(16, 16, 16, text_width=1152)) for shape in SHAPES.values()]
    assert min(totals) < 2e6
    assert max(totals) > 1e9


def test_modulated_blocks_are_identities_at_the_start():
    network = stream_dit(Frame(2, 4, 6, text_width=6), **TINY)
    x, signal = torch.randn(3, 6, 32), network.shared(torch.randn(3, 32))
    for block in (*network.noise_refiners, *network.blocks):
        assert torch.equal(block(x, signal), x)
    for block in network.text_refiners:
        assert not torch.allclose(block(x), x)


def test_gates_can_not_pass_one():
    block = Block(StreamShape(**TINY, modulation="block"))
    x = torch.randn(3, 6, 32)
    torch.nn.init.constant_(block.modulation.linear.bias, 50.0)
    attended = block.norm2(block.attention(block.norm1(x) * 51))
    y = x + attended
    y = y + block.norm4(block.mlp(block.norm3(y) * 51))
    torch.testing.assert_close(block(x, torch.zeros(3, 32)), y)


def test_the_time_does_not_reach_the_words_alone():
    """Prompt refiners have no modulation: words are the same at every time."""
    network = stream_dit(Frame(2, 4, 6, text_width=6), **TINY)
    assert not any("modulation" in n for n, _ in network.text_refiners.named_parameters())


@pytest.mark.parametrize("positions", ["rope", "both"])
@pytest.mark.parametrize("extrapolate", ["none", "rescale", "ntk"])
def test_places_of_larger_pictures(positions, extrapolate):
    settings = {**TINY, "heads": 1, "positions": positions, "extrapolate": extrapolate}
    network = stream_dit(Frame(2, 8, 8), **settings)
    turn = partial(network._image_rope, device=torch.device("cpu"))

    def tables(rows, columns):
        placed = network._add_positions(torch.zeros(1, rows * columns, 32), (rows, columns))
        turned = turn((rows, columns)).movedim(1, -1).reshape(-1, rows, columns)
        return turned, placed[0].T.reshape(-1, rows, columns)

    known, larger, smaller = tables(4, 4), tables(8, 8), tables(2, 3)
    for a, b in zip(known, smaller, strict=True):
        assert torch.equal(b, a[:, :2, :3])
    squeezed = torch.allclose(larger[0][:, ::2, ::2], known[0], atol=1e-6)
    continued = torch.allclose(larger[0][:, :4, :4], known[0], atol=1e-6)
    assert (squeezed, continued) == (extrapolate == "rescale", extrapolate == "none")
    if positions == "both":
        assert torch.allclose(larger[1][:, ::2, ::2], known[1]) == (extrapolate != "none")


def test_only_the_offset_between_patches_counts():
    """With rotary places alone, a picture moved around a larger empty one gives the same."""
    network = stream_dit(Frame(2, 4, 4), **TINY, positions="rope", extrapolate="none")
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    block, x = network.blocks[0], torch.randn(1, 16, 32)
    signal = torch.randn(1, 4 * 32)
    whole = rotary_picture(8, 8, 16).view(2, 8, 8, 16)
    moved = [
        block(x, signal, whole[:, i : i + 4, j : j + 4].reshape(2, 16, 16))
        for i, j in ((0, 0), (3, 1), (4, 4))
    ]
    torch.testing.assert_close(moved[0], moved[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved[0], moved[2], atol=1e-4, rtol=1e-4)
    turned = whole.transpose(1, 2)[:, :4, :4].reshape(2, 16, 16)
    assert not torch.allclose(block(x, signal, turned), moved[0], atol=1e-3)


def test_words_are_told_apart_by_their_place():
    network = stream_dit(Frame(2, 4, 6, text_width=6), **TINY)
    for p in network.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    x, t, tokens = torch.randn(1, 2, 4, 6), torch.rand(1), torch.randn(1, 5, 6)
    there = network(x, t, Cond(tokens)).value
    assert (network(x, t, Cond(tokens.flip(1))).value - there).abs().max() > 1e-2


def test_row():
    assert BACKBONES["stream_dit"] is stream_dit
    with pytest.raises(ValueError, match="even width of at least 6, got 4"):
        stream_dit(Frame(2, 4, 6), **{**TINY, "heads": 8})


WIDTH, HEADS, TEXT = 48, 2, 10
FRAME = Frame(4, 4, 6, text_width=TEXT)
LUMINA = {
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": WIDTH,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": HEADS,
    "num_kv_heads": HEADS,
    "multiple_of": 64,
    "ffn_dim_multiplier": 2 / 3,
    "norm_eps": 1e-6,
    "axes_dim_rope": axes(WIDTH // HEADS),
    "axes_lens": (32, 32, 32),
    "cap_feat_dim": TEXT,
}


@pytest.fixture(scope="module")
def lumina():
    """diffusers' Lumina 2, tiny, with random weights."""
    pytest.importorskip("diffusers", reason="needs diffusers")
    from diffusers import Lumina2Transformer2DModel

    torch.manual_seed(0)
    network = Lumina2Transformer2DModel(**LUMINA)
    for name, p in network.named_parameters():
        torch.nn.init.normal_(p, mean=float("norm" in name and p.dim() == 1), std=0.2)
    for module in network.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-6  # that of q and k can't be set otherwise
    return network.eval()


def pairs():
    """Interleaved pairs -> half-split; on the text axis the two of a pair also change places.

    Lumina counts words up to the picture, we count them from the picture on: the other way round.
    """
    even, odd = (torch.arange(side, WIDTH // HEADS, 2) for side in (0, 1))
    back = axes(WIDTH // HEADS)[0] // 2
    first = torch.cat([odd[:back], even[back:]])
    return torch.cat([first, torch.cat([even[:back], odd[back:]])])


def block_of(theirs, prefix):
    """The weights of one of Lumina's blocks by our names."""
    weights = {n[len(prefix) :]: p for n, p in theirs.items() if n.startswith(prefix)}
    order = pairs()

    def turned(name):
        return weights[name].view(HEADS, -1, WIDTH)[:, order].reshape(WIDTH, WIDTH)

    modulated = "norm1.linear.weight" in weights
    found = {
        "norm1.weight": weights["norm1.norm.weight" if modulated else "norm1.weight"],
        "norm2.weight": weights["norm2.weight"],
        "norm3.weight": weights["ffn_norm1.weight"],
        "norm4.weight": weights["ffn_norm2.weight"],
        "attention.qkv.weight": torch.cat(
            [turned("attn.to_q.weight"), turned("attn.to_k.weight"), weights["attn.to_v.weight"]]
        ),
        "attention.gain": torch.cat([weights[f"attn.norm_{x}.weight"][order] for x in "qk"]),
        "attention.out.weight": weights["attn.to_out.0.weight"],
        "mlp.up.weight": torch.cat(
            [weights["feed_forward.linear_1.weight"], weights["feed_forward.linear_3.weight"]]
        ),
        "mlp.down.weight": weights["feed_forward.linear_2.weight"],
    }
    if modulated:
        found["modulation.linear.weight"] = weights["norm1.linear.weight"]
        found["modulation.linear.bias"] = weights["norm1.linear.bias"]
    return found


OUTER = {
    "patch": "x_embedder",
    "time.up": "time_caption_embed.timestep_embedder.linear_1",
    "time.down": "time_caption_embed.timestep_embedder.linear_2",
    "text.linear": "time_caption_embed.caption_embedder.1",
    "final.modulation.linear": "norm_out.linear_1",
    "final.linear": "norm_out.linear_2",
}
STACKS = {
    "noise_refiners": ("noise_refiner", 1),
    "text_refiners": ("context_refiner", 1),
    "blocks": ("layers", 2),
}


def with_weights_of(lumina):
    ours = stream_dit(
        FRAME,
        depth=2,
        width=WIDTH,
        heads=HEADS,
        patch=2,
        refiners=1,
        positions="rope",
        theta=1e4,
        extrapolate="none",
        modulation="block",
        time_scale=1.0,
    )
    theirs = lumina.state_dict()
    state = {"text.norm.weight": theirs["time_caption_embed.caption_embedder.0.weight"]}
    for name, other in OUTER.items():
        state |= {f"{name}.{part}": theirs[f"{other}.{part}"] for part in ("weight", "bias")}
    for name, (other, count) in STACKS.items():
        for i in range(count):
            found = block_of(theirs, f"{other}.{i}.")
            state |= {f"{name}.{i}.{part}": value for part, value in found.items()}
    ours.load_state_dict(state, strict=True)
    return ours


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 2, 3)])
@pytest.mark.parametrize("size", [(4, 6), (8, 4)])
def test_the_whole_network_is_lumina(lumina, lengths, size):
    """Same weights, same answer: blocks, refiners, rotary places, ends, whole and ragged text."""
    ours = with_weights_of(lumina)
    x, t, tokens = torch.randn(3, 4, *size), torch.rand(3), torch.randn(3, 5, TEXT)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    theirs = lumina(x, t, tokens, mask, return_dict=False)[0]
    back = tokens.clone()
    for i, n in enumerate(lengths):
        back[i, :n] = tokens[i, :n].flip(0)
    value = ours(x, t, Cond(back, mask)).value
    torch.testing.assert_close(value, theirs, atol=2e-4, rtol=1e-3)
    if lengths[0] == min(lengths):
        unmasked = ours(x, t, Cond(back)).value
        torch.testing.assert_close(unmasked, theirs, atol=2e-4, rtol=1e-3)
    forward = ours(x, t, Cond(tokens, mask)).value
    assert not F.mse_loss(forward, theirs) < 1e-3  # the order of words would have shown


def test_a_block_is_lumina(lumina):
    """One block with random places, time and mask, so that a fault is found near to where it is."""
    block = Block(StreamShape(1, WIDTH, HEADS, 2, modulation="block"))
    theirs = lumina.layers[0]
    block.load_state_dict(block_of(lumina.state_dict(), "layers.0."))
    x, signal = torch.randn(2, 11, WIDTH), torch.randn(2, WIDTH)
    mask = torch.arange(11) < torch.tensor([[9], [11]])
    turn = torch.cat([rotary_picture(2, 3, 24), rotary_text(5, 24)], dim=1)
    cosine, sine = turn[0, :, :12], turn[1, :, 12:]
    back = axes(24)[0] // 2
    sine = torch.cat([-sine[:, :back], sine[:, back:]], dim=1)
    angles = torch.complex(cosine, sine)[None]
    wanted = theirs(x, mask, angles, signal)
    found = block(x, F.silu(signal), turn, mask[:, None, None])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
