import numpy as np
import pytest

from train.evaluators import calibration
from train.evaluators.calibration import bins_of, confidences, ece, ece_interval, fit_temperature


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(np.asarray(probabilities)), -800)


def random_logits(n: int = 600, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return 2 * random.normal(size=(n, classes)), random.integers(classes, size=n)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_extreme_predictors_have_the_extreme_errors(binning):
    targets = np.arange(30) % 3
    sure = 1000.0 * np.eye(3)
    for logits, expected in ((sure[targets], 0.0), (sure[(targets + 1) % 3], 1.0), (np.zeros((30, 3)), 0.0)):
        # All are equally sure, so that there is one bin; a third of the targets is class 0, the first of equals.
        assert ece(*confidences(logits, targets), binning) == pytest.approx(expected, abs=1e-12)


def test_expected_calibration_error_by_hand():
    # In (0.2, 0.3], (0.6, 0.7] and (0.9, 1.0] of ten bins: gaps of 0.25, 0.15 and 0.05 over 1, 2 and 2 images.
    confidence = np.array([0.25, 0.65, 0.65, 0.9 + 1e-9, 1.0])
    correct = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    assert ece(confidence, correct, "width", 10) == pytest.approx((0.25 + 2 * 0.15 + 2 * 0.05) / 5, abs=1e-9)
    # Two bins of equal mass: the two that are equally sure stay together, with ranks 1 and 2 of 5 in the first.
    assert calibration.assign(confidence, "mass", 2).tolist() == [0, 0, 0, 1, 1]
    assert ece(confidence, correct, "mass", 2) == pytest.approx((abs(1.55 - 1) + abs(1.9 - 2)) / 5, abs=1e-9)


def test_a_known_error_is_found_among_many():
    random = np.random.default_rng(1)
    confidence = random.uniform(0.5, 0.9, 200_000)
    correct = (random.random(200_000) < confidence - 0.2).astype(float)
    for binning in ("width", "mass"):
        assert ece(confidence, correct, binning) == pytest.approx(0.2, abs=0.005)


def test_ends_of_bins_and_confidences_of_0_and_1():
    places = calibration.assign([0.0, 1e-300, 1 / 15, np.nextafter(1 / 15, 1), 0.2, 1.0], "width")
    assert places.tolist() == [0, 0, 0, 1, 2, 14]
    with pytest.raises(ValueError, match="within 0 and 1"):
        calibration.assign([0.5, 1.1], "width")
    with pytest.raises(ValueError, match="within 0 and 1"):
        calibration.assign([0.5, np.nan], "mass")


def test_bins_of_equal_mass_have_equal_mass_and_never_part_ties():
    random = np.random.default_rng(2)
    counts = np.bincount(calibration.assign(random.random(157), "mass"), minlength=15)
    assert counts.sum() == 157
    assert counts.max() - counts.min() == 1
    tied = random.integers(1, 6, 157) / 6
    places = calibration.assign(tied, "mass")
    assert all(len(set(places[tied == value])) == 1 for value in set(tied))
    shuffled = random.permutation(157)
    np.testing.assert_array_equal(calibration.assign(tied[shuffled], "mass"), places[shuffled])


def test_the_diagrams_bins_add_up_to_the_error():
    confidence, correct = confidences(*random_logits())
    for binning in ("width", "mass"):
        bins = bins_of(confidence, correct, binning)
        assert len(bins) == 15
        assert sum(each.count for each in bins) == 600
        error = sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / 600
        assert error == pytest.approx(ece(confidence, correct, binning), abs=1e-12)
    empty = bins_of(np.array([0.95]), np.array([1.0]))[0]
    assert (empty.count, empty.accuracy) == (0, 0.0)
    assert empty.confidence == pytest.approx(1 / 30)


def test_likelihood_and_brier_score_by_hand():
    logits = logits_of([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(calibration.nll_each(logits, [1, 0]), [np.log(4), 0], atol=1e-12)
    np.testing.assert_allclose(calibration.brier_each(logits, [1, 0]), [0.25 + 0.75**2 + 0.0625, 0], atol=1e-12)
    assert calibration.brier_each(logits[1:], [2])[0] == pytest.approx(2)
    nothing = np.zeros((4, 4))
    entropy, impurity = calibration.constant_scores([0, 1, 2, 3])
    assert calibration.nll_each(nothing, [0, 1, 2, 3]).mean() == pytest.approx(entropy)
    assert calibration.brier_each(nothing, [0, 1, 2, 3]).mean() == pytest.approx(impurity)


def test_no_constant_answer_is_better_than_the_shares():
    targets = np.repeat([0, 1, 2], [5, 3, 2])
    entropy, impurity = calibration.constant_scores(targets)
    for shares in ([0.5, 0.3, 0.2], [0.45, 0.35, 0.2], [0.6, 0.2, 0.2]):
        logits = np.tile(logits_of([shares]), (10, 1))
        assert calibration.nll_each(logits, targets).mean() >= entropy - 1e-12
        assert calibration.brier_each(logits, targets).mean() >= impurity - 1e-12


@pytest.mark.parametrize("planted", [0.25, 1.0, 4.0])
def test_temperature_is_what_targets_were_drawn_with(planted):
    random = np.random.default_rng(3)
    calm = 2 * random.normal(size=(40_000, 5))
    targets = (calm + random.gumbel(size=calm.shape)).argmax(1)
    found = fit_temperature(planted * calm, targets)
    assert found == pytest.approx(planted, rel=0.03)
    # It is where the loss is least: no neighbour has a lower one.
    losses = [calibration.nll_each(planted * calm, targets, found * by).mean() for by in (0.999, 1, 1.001)]
    assert losses[1] == min(losses)


def test_temperature_ends_where_there_is_no_best_one():
    targets = np.arange(20) % 4
    right = 3 * np.eye(4)[targets]
    assert fit_temperature(right, targets) == pytest.approx(1 / 32)
    assert fit_temperature(200 * right, targets) == pytest.approx(1 / 32)  # the loss is 0 at every one
    assert fit_temperature(-right, targets) == pytest.approx(32)


def test_scaling_changes_no_decision_and_a_little_noise_changes_no_number():
    logits, targets = random_logits()
    noisy = logits + 1e-6 * np.random.default_rng(4).normal(size=logits.shape)
    numbers = []
    for given in (logits, noisy):
        temperature = fit_temperature(given, targets)
        sure, right = confidences(given, targets, temperature)
        np.testing.assert_array_equal(right, confidences(given, targets)[1])
        errors = [ece(sure, right, binning) for binning in ("width", "mass")]
        numbers.append([temperature, *errors, *ece_interval(sure, right, 0, "mass")])
    np.testing.assert_allclose(*numbers, atol=1e-4)


def test_interval_holds_the_error_of_a_badly_calibrated_classifier():
    random = np.random.default_rng(5)
    confidence = random.uniform(0.5, 1, 1000)
    correct = (random.random(1000) < confidence - 0.3).astype(float)
    low, high = ece_interval(confidence, correct, 0)
    assert low < ece(confidence, correct) < high
    assert high - low < 0.1
    assert ece_interval(confidence, correct, 0) == (low, high)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((2, 3)), [0], r"expected \[n, k\] and \[n\]"),
        (np.zeros((0, 3)), [], "n of 1 or more"),
        (np.full((1, 3), np.nan), [0], "not finite"),
        (np.zeros((1, 3)), [3], "3 classes"),
    ],
)
def test_what_cannot_be_judged_is_refused(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        calibration.nll_each(logits, targets)
