"""All weights of a file are read, or those that are not are named."""

import pytest
import torch
from torch import nn

from pathline.weights import check_weights, load_weights, submodule, unread_weights


class Tied(nn.Module):
    """Two parts that share a table, as encoder and decoder do."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"table": nn.Embedding(4, 2), "out": nn.Linear(2, 2)})
        self.decoder = nn.ModuleDict({"table": self.encoder["table"], "out": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("missing", "unread"),
    [
        ({"encoder.table.weight"}, set()),  # read by its other name
        ({"encoder.table.weight", "decoder.table.weight"}, None),
        ({"decoder.out.weight", "decoder.out.bias"}, set()),  # not of the part
        ({"encoder.out.bias"}, None),
        ({"no.such.name"}, None),
        ({"pooler.dense.weight"}, set()),
    ],
)
def test_missing_weights_count_where_the_part_computes_with_them(missing, unread):
    whole = Tied()
    expected = missing if unread is None else unread
    assert set(unread_weights(whole, whole.encoder, missing)) == expected & missing


def test_each_kind_of_problem_is_named():
    check_weights("file")
    message = r"5 weights of file don't fit .*missing: a, b, c and 1 more; of another shape: e"
    with pytest.raises(ValueError, match=message):
        check_weights("file", missing="abcd", mismatched="e")
    network = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"missing: bias; unexpected: more; of another shape: wei"):
        load_weights(network, {"weight": torch.ones(3), "more": torch.ones(1)}, "file")


def test_a_part_that_was_saved_alone_is_its_own():
    whole = Tied()
    assert submodule(whole, "encoder.out") is whole.encoder["out"]
    assert submodule(whole.encoder, "encoder") is whole.encoder
    assert submodule(whole, "") is whole
