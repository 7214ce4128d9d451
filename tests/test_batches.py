"""Inputs of a request are checked and cut; tests/test_client.py has them on their way to a server."""

import tracemalloc

import numpy as np
import pytest

from vit22b.batches import check_inputs, row_batches
from vit22b.signature import Tensor

CONTRACT = {"image_bytes": Tensor("string", (None,))}


def test_the_shape_of_a_list_costs_no_memory():
    inputs = {"image_bytes": [b"x" * 10_000_000, *[b"y"] * 50]}
    tracemalloc.start()
    check_inputs("embed_image", inputs, CONTRACT)
    cut = list(row_batches(inputs, 32))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(batch["image_bytes"]) for batch in cut] == [32, 19]
    assert most < 1_000_000


@pytest.mark.parametrize("values", [[b"a", b"bc"], (b"a", b"bc"), np.array([b"a", b"bc"], object)])
def test_bytes_come_in_any_sequence(values):
    check_inputs("embed_image", {"image_bytes": values}, CONTRACT)
    assert [list(batch["image_bytes"]) for batch in row_batches({"image_bytes": values}, 1)] == [[b"a"], [b"bc"]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"one image", "image_bytes is a bytes; expected an array, or a list of bytes"),
        ({b"a"}, "image_bytes is a set; expected"),
        (7, "image_bytes is a int; expected"),
        ([b"a", "b"], "image_bytes has a str in row 1; expected bytes in every row"),
        ([[1, 2], [3, 4]], "image_bytes has a list in row 0; expected .* an array of numbers"),
        (np.array([b"a", None], object), "image_bytes has a NoneType in row 1; expected"),
    ],
)
def test_what_is_neither_numbers_nor_bytes_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        check_inputs("embed_image", {"image_bytes": values}, CONTRACT)
    with pytest.raises(ValueError, match=message):
        next(row_batches({"image_bytes": values}, 1))
