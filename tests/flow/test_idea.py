"""The page that explains the idea does what it says, and points to files that exist."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "idea.md"


def test_the_sampler_on_the_page():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    assert torch.allclose(names["x1"], torch.full((4, 1, 8, 8), 3.0), atol=1e-4)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((\.\./[^)]+)\)", PAGE.read_text("utf-8")):
        assert (PAGE.parent / target).exists(), target
