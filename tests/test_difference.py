import math
import re

import ml_dtypes
import numpy as np
import pytest

from vit22b.difference import Difference, difference

GOLDEN = {"embedding": np.array([[3.0, 4.0], [-10.0, 0.0]], np.float32), "ok": np.array([True, False])}


def test_equal_answers_differ_in_nothing():
    found = difference(GOLDEN, GOLDEN)
    assert (found.max_abs_error, found.relative_error, found.problem) == (0, 0, "")
    assert found.cosine == pytest.approx(1)


def test_an_error_is_measured_against_the_outputs_greatest_value():
    got = {**GOLDEN, "embedding": GOLDEN["embedding"] + np.array([[0.0005, 0], [0, 0]], np.float32)}
    found = difference(GOLDEN, got)
    assert found.max_abs_error == pytest.approx(5e-4, rel=1e-3)
    assert found.relative_error == pytest.approx(5e-5, rel=1e-3)
    assert found.problem == ""
    worse = difference(GOLDEN, got, tolerance=1e-5)
    assert worse.problem == "output embedding: max abs error 0.0005, allowed 0.0001"


def test_a_great_value_does_not_hide_what_became_of_the_others():
    golden = np.random.default_rng(0).normal(size=(2, 256))
    golden[0, 0] = 100
    got = golden.copy()
    got[0, 1:] *= -1  # each off by a few hundredths of the greatest value
    found = difference({"tokens": golden}, {"tokens": got}, tolerance=2**-4)
    assert found.relative_error < 2**-4
    assert found.problem.startswith("output tokens: cosine 0.9")
    near = golden + 2**-5 * np.abs(golden).max() / 4 * np.random.default_rng(1).normal(size=golden.shape)
    assert difference({"tokens": golden[1:]}, {"tokens": near[1:]}, tolerance=1).problem == ""


def test_rows_of_zeros_are_equal():
    zeros = {"embedding": np.zeros((2, 4), np.float32)}
    assert difference(zeros, zeros) == Difference()
    assert difference(zeros, {"embedding": np.ones((2, 4), np.float32)}).cosine == 0


def test_the_cosine_is_of_the_worst_row():
    turned = {"embedding": np.array([[4.0, 3.0], [-10.0, 0.0]], np.float32)}
    assert difference({"embedding": GOLDEN["embedding"]}, turned).cosine == pytest.approx(24 / 25)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"embedding": np.zeros((1, 2), np.float32)},
            r"output embedding: expected float32\[2, 2\], got float32\[1, 2\]",
        ),
        ({"embedding": np.zeros((2, 2))}, "output embedding: expected float32.*got float64"),
        ({"ok": np.array([True, True])}, "output ok: 1 of 2 values differ"),
    ],
)
def test_an_answer_of_another_kind_is_infinitely_far(changes, problem):
    found = difference(GOLDEN, {**GOLDEN, **changes})
    assert found.max_abs_error == math.inf
    assert found.cosine == 0
    assert re.match(problem, found.problem)


def test_a_missing_output_is_named_and_one_more_is_passed_over():
    assert difference(GOLDEN, {"ok": GOLDEN["ok"]}).problem == "output embedding is missing"
    assert difference({"ok": GOLDEN["ok"]}, GOLDEN) == Difference()


def test_nan_is_a_problem():
    got = {**GOLDEN, "embedding": np.full((2, 2), np.nan, np.float32)}
    found = difference(GOLDEN, got)
    assert found.problem == "output embedding: 4 of 4 values are not finite"
    assert found.max_abs_error == math.inf


def test_bfloat16_is_compared_within_the_tolerance_too():
    golden = {"embedding": np.array([[1.0, 0.5]], ml_dtypes.bfloat16)}
    other = {"embedding": np.array([[1.0, 0.5039]], ml_dtypes.bfloat16)}
    assert difference(golden, other, tolerance=0.01).problem == ""
    assert difference(golden, other, tolerance=0.001).problem.startswith("output embedding: max abs error 0.0039")
