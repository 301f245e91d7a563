"""How both text backbones run: no waiting, no needless masks, checkpoints, precision, one graph."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.usefixtures("seeded")
named = pytest.mark.parametrize("name", ["cross_dit", "stream_dit"])


class Waits(TorchDispatchMode):
    """Counts operations that would make the host wait for its device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal", "_to_copy"):
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@named
def test_the_device_is_never_waited_for(name, build, perturb, inputs):
    network = perturb(build(name, 3, 6, 5))
    args = inputs(network, size=(8, 10))
    network(*args)  # tables are made
    with Waits() as waits:
        network(*args).value.sum().backward()
        assert not waits.found
        assert args[2].mask.any()  # asked here, it shows
    assert waits.found


@named
@pytest.mark.parametrize("masked", [False, True])
def test_no_mask_goes_to_the_kernel_where_all_is_text(name, masked, monkeypatch, build, inputs):
    network, seen, attend = build(name), [], F.scaled_dot_product_attention

    def spy(*args, attn_mask=None):
        seen.append(attn_mask)
        return attend(*args, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    x, t, cond, _ = inputs(network)
    network(x, t, cond if masked else cond._replace(mask=None))
    assert len(seen) >= 4
    assert any(mask is not None for mask in seen) == masked


@named
def test_checkpointing_gives_the_same_gradients(name, build, perturb, inputs):
    plain = perturb(build(name, 3, 6))
    saving = build(name, 3, 6, checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    for network in (plain, saving):
        network(*inputs(network)).value.square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@named
def test_autocast_keeps_the_stream_wide(name, build, perturb, inputs):
    network = perturb(build(name, 3, 6, 5), size=0.1)
    args = inputs(network)
    exact = network(*args)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*args)
        out.value.float().square().mean().backward()
    assert out.hidden.dtype == torch.float32
    torch.testing.assert_close(out.value.float(), exact.value, atol=0.1, rtol=0.1)
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


@named
def test_a_network_cast_whole_runs(name, build, perturb, inputs):
    network = perturb(build(name, 3, 6, 5)).bfloat16()
    x, t, cond, _ = inputs(network)
    cond = cond._replace(tokens=cond.tokens.bfloat16(), pooled=cond.pooled.bfloat16())
    assert network(x.bfloat16(), t, cond).value.dtype == torch.bfloat16


@named
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, in jvp
def test_a_transformation_leaves_nothing_behind(name, build, perturb, inputs):
    """Mean flow asks for a derivative along a direction; what it made must not stay in tables."""
    network = perturb(build(name, takes_r=True, time_scale=1.0), size=0.1)
    x, t, cond, r = inputs(network, size=(10, 4))

    def value(x, t):
        return network(x, t, cond, r).value

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, along = torch.func.jvp(value, (x, t), (torch.ones_like(x), torch.ones_like(t)))
    small = 1e-2
    nearby = (value(x + small, t + small) - value(x - small, t - small)) / (2 * small)
    assert F.cosine_similarity(along.flatten(), nearby.flatten(), dim=0) > 0.999
    network(x, t, cond, r).value.square().mean().backward()
    with torch.inference_mode():
        network(*inputs(network, size=(2, 12)))
    network(*inputs(network, size=(2, 12))).value.square().mean().backward()


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounter
from pathline.backbones.table import BACKBONES
from pathline.types import Cond, Frame

for name in ("cross_dit", "stream_dit"):
    torch._dynamo.reset()
    graphs = CompileCounter()
    network = BACKBONES[name](Frame(2, 4, 6, 3, 6, 5), depth=1, width=32, heads=2, patch=2)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    compiled = torch.compile(network, fullgraph=True, backend=graphs)
    for size, length in (((4, 6), 5), ((8, 10), 7), ((6, 14), 9), ((10, 8), 12), ((14, 18), 24)):
        labels, pooled = torch.tensor([0, 3, 1]), torch.randn(3, 5)
        cond = Cond(torch.randn(3, length, 6), torch.ones(3, length).bool(), pooled, labels)
        args = torch.randn(3, 2, *size), torch.rand(3), cond
        with torch.no_grad():
            found = [called(*args).value for called in (network, compiled)]
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-3)
    assert graphs.frame_count == 2, graphs.frame_count  # one size, and then any size
"""


@pytest.mark.slow
def test_one_graph_serves_every_size():
    """In a process of its own: the checkers of shapes in the tests can't be compiled."""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", COMPILED], check=True)
