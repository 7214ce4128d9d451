"""How an answer compares with the golden one that a version brings.

Between SavedModel and client on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client:
export/verify.py and a server that checks golden answers while it warms up judge by the same rule.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vit22b.signature import TOLERANCE

_ROUNDING = 1e-12  # of a cosine in float64


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an answer is from the golden one.

    Attributes:
        max_abs_error: the largest absolute error of a float of any output; inf where one is not finite or
            the outputs differ in kind.
        relative_error: the same, as a part of the greatest value recorded for the output.
        cosine: the smallest cosine of two rows; 0 where they differ in kind, 1 for a row of zeros in both.
        problem: in words what is wrong, with the output's name, or "" where all is within the tolerance.
    """

    max_abs_error: float = 0.0
    relative_error: float = 0.0
    cosine: float = 1.0
    problem: str = ""


def difference(
    expected: Mapping[str, npt.NDArray[Any]], got: Mapping[str, npt.NDArray[Any]], tolerance: float = TOLERANCE
) -> Difference:
    """Compares every recorded output: floats within the tolerance, everything else equal.

    There is no rule of its own for weights in bfloat16 or int8, but a wider tolerance, which stands in the manifest:
    the answer is the same program's, and another chip only sums in another order. One great value would hide what
    became of the others, so that every row's direction is judged too: random errors of that size turn a row by about
    the tolerance, which in 1 - cosine is half its square.

    Args:
        expected: the golden outputs by name.
        got: the answer's; it may have more.
        tolerance: largest relative error (see Difference); its square is the largest 1 - cosine.
    """
    found = Difference()
    for name, golden in sorted(expected.items()):
        if name not in got:
            return _other_kind(f"output {name} is missing")
        answer = np.asarray(got[name])
        if golden.shape != answer.shape or golden.dtype != answer.dtype:
            kinds = f"expected {golden.dtype}{list(golden.shape)}, got {answer.dtype}{list(answer.shape)}"
            return _other_kind(f"output {name}: {kinds}")
        if golden.dtype.kind == "f" or golden.dtype.name == "bfloat16":  # which is of no kind that NumPy knows
            found = _worse(found, _of_floats(name, golden, answer, tolerance))
        elif differing := int(np.count_nonzero(golden != answer)):
            return _other_kind(f"output {name}: {differing} of {golden.size} values differ")
    return found


def _of_floats(name: str, golden: npt.NDArray[Any], answer: npt.NDArray[Any], tolerance: float) -> Difference:
    a, b = golden.astype(np.float64), answer.astype(np.float64)
    error = float(np.abs(a - b).max(initial=0.0))
    if not np.isfinite(error):
        return _other_kind(f"output {name}: {np.count_nonzero(~np.isfinite(a - b))} of {b.size} values are not finite")
    relative = error / max(float(np.abs(a).max(initial=0.0)), 1e-30)
    cosine = _smallest_cosine(a, b)
    text = ""
    if not relative <= tolerance:
        text = f"output {name}: max abs error {error:.3g}, allowed {error / relative * tolerance:.3g}"
    elif not cosine >= 1 - max(tolerance**2, _ROUNDING):
        text = f"output {name}: cosine {cosine:.6f} of a row and its golden one, allowed {1 - tolerance**2:.6f}"
    return Difference(error, relative, cosine, text)


def _smallest_cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines = np.divide(np.sum(a * b, axis=-1), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    zeros = ~(a.any(axis=-1) | b.any(axis=-1))
    return float(np.min(np.where(zeros, 1.0, cosines), initial=1.0))


def _worse(one: Difference, other: Difference) -> Difference:
    return Difference(
        max(one.max_abs_error, other.max_abs_error),
        max(one.relative_error, other.relative_error),
        min(one.cosine, other.cosine),
        one.problem or other.problem,
    )


def _other_kind(problem: str) -> Difference:
    return Difference(float("inf"), float("inf"), 0.0, problem)
