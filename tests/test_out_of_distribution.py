from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from train.evaluators.out_of_distribution import LEAST, ReferenceLine, read_line


def test_reference_models_lie_on_the_line_that_was_planted() -> None:
    base = expit(np.linspace(-2, 3, 9))
    shift = expit(0.8 * np.linspace(-2, 3, 9) - 1.1)
    line = ReferenceLine.through(np.stack([base, shift], axis=1).tolist(), "planted")
    assert (line.slope, line.intercept, line.models) == (pytest.approx(0.8), pytest.approx(-1.1), 9)
    for one, other in zip(base, shift, strict=True):
        assert line.effective_robustness(one, other) == pytest.approx(0, abs=1e-12)
        assert line.effective_robustness(one, other + 0.05) == pytest.approx(0.05)


def test_a_line_is_counted_by_hand() -> None:
    # Odds of 1 -> 1/3 and of 9 -> 1: on the logit scale from (0, -ln 3) to (ln 9, 0), which has the slope 1/2.
    line = ReferenceLine.through([[0.5, 0.25], [0.9, 0.5]], "by hand")
    assert line.slope == pytest.approx(0.5)
    assert line.intercept == pytest.approx(-np.log(3))
    assert line.predicted(0.5) == pytest.approx(0.25)
    assert line.effective_robustness(0.9, 0.4) == pytest.approx(-0.1)


def test_a_perfect_model_has_an_expectation_too() -> None:
    line = ReferenceLine.through([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], "the diagonal")
    assert line.effective_robustness(1.0, 1.0) == pytest.approx(0, abs=2 * LEAST)
    assert line.effective_robustness(1.0, 0.7) == pytest.approx(-0.3, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"points": [[0.5, 0.4]], "source": "one"}', "two models or more"),
        ('{"points": [[0.5, 0.4], [0.5, 0.3]], "source": "one base"}', "two models or more"),
        ('{"points": [[0.5, 40], [0.6, 50]], "source": "percent"}', "no pair of shares"),
        ('{"points": [[0.5], [0.6]], "source": "single"}', "no pair of shares"),
        ('{"points": [["a", "b"]], "source": "texts"}', "line.json"),
        ('{"points": []}', "expected an object of points and source"),
        ("nothing", "line.json"),
    ],
)
def test_a_broken_line_is_told_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "line.json").write_text(text)
    with pytest.raises(ValueError, match=message) as told:
        read_line(tmp_path / "line.json")
    assert str(told.value).startswith(str(tmp_path / "line.json"))


def test_a_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text('{"points": [[0.5, 0.25], [0.9, 0.5]], "source": "a table"}')
    assert read_line(tmp_path / "line.json") == ReferenceLine.through([[0.5, 0.25], [0.9, 0.5]], "a table")
