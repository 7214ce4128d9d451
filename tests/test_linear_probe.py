from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from train.evaluators.features import Standard, held_back
from train.evaluators.least_squares import least_squares, signed
from train.evaluators.linear_probe import PENALTIES, Chosen, fit_logistic, fit_ridge, fit_sgd

FITS = [fit_sgd, fit_ridge, fit_logistic]
Fit = Callable[..., Chosen]


def clusters(classes: int, images: int, width: int = 12, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Far apart: planted labels that a linear classifier finds."""
    centres = np.random.default_rng(1).normal(size=(classes, width)) * 4
    targets = np.tile(np.arange(classes), images)
    return centres[targets] + noise * np.random.default_rng(images).normal(size=(len(targets), width)), targets


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("classes", [2, 5])
def test_planted_classes_are_found_on_images_that_were_not_seen(fit: Fit, classes: int) -> None:
    probe = fit(*clusters(classes, 30), classes).probe
    features, targets = clusters(classes, 40)
    logits = probe.logits(features)
    assert logits.shape == (40 * classes, classes)
    assert logits.dtype == np.float64
    assert (logits.argmax(axis=1) == targets).all()


@pytest.mark.parametrize("fit", FITS)
def test_features_without_information_give_chance(fit: Fit) -> None:
    generator = np.random.default_rng(0)
    features, targets = generator.normal(size=(600, 10)), np.tile(np.arange(4), 150)
    probe = fit(features, targets, 4).probe
    found = probe.logits(generator.normal(size=(2000, 10))).argmax(axis=1)
    assert abs((found == np.tile(np.arange(4), 500)).mean() - 0.25) < 0.04  # four standard deviations


@pytest.mark.parametrize("fit", FITS)
def test_features_of_a_served_model_give_the_same_probe(fit: Fit) -> None:
    features, targets = load_digits(return_X_y=True)
    features, targets = features[:400] / 16, targets[:400]
    near = features + 1e-6 * np.random.default_rng(0).normal(size=features.shape)
    one, other = fit(features, targets, 10), fit(near, targets, 10)
    assert one.probe.settings == other.probe.settings
    one_logits, other_logits = one.probe.logits(features), other.probe.logits(near)
    np.testing.assert_allclose(softmax(one_logits, axis=1), softmax(other_logits, axis=1), atol=1e-4)
    np.testing.assert_array_equal(one_logits.argmax(1), other_logits.argmax(1))


def test_scale_and_origin_of_the_features_do_not_matter() -> None:
    features, targets = clusters(3, 20, noise=6.0)
    np.testing.assert_allclose(Standard.of(features)(features).std(axis=0), 1)
    moved = features * np.linspace(0.1, 3, 12) - np.linspace(-50, 50, 12)
    one, other = fit_logistic(features, targets, 3).probe, fit_logistic(moved, targets, 3).probe
    np.testing.assert_allclose(one.logits(features), other.logits(moved), atol=1e-5)


def test_a_dead_feature_is_not_made_a_signal() -> None:
    features, _ = clusters(3, 20)
    features[:, 4] = 7 + 1e-7 * np.random.default_rng(0).normal(size=len(features))
    assert np.abs(Standard.of(features)(features)[:, 4]).max() < 1e-5
    assert (Standard.of(np.ones((5, 3)))(np.ones((5, 3))) == 0).all()


def test_the_settings_say_what_the_sweep_has_chosen() -> None:
    settings = fit_logistic(*clusters(3, 25, noise=8), 3).probe.settings
    assert settings["solver"] == "L-BFGS"
    assert settings["penalty"] in PENALTIES
    assert settings["validation_images"] == 15
    assert fit_sgd(*clusters(3, 25), 3, epochs=2, rates=(0.05,)).probe.settings["learning_rate"] == 0.05


def test_a_sweep_takes_what_the_validation_split_likes_best() -> None:
    # Of two penalties one leaves next to nothing of the weights: the other is taken, whichever comes first.
    features, targets = clusters(3, 25, noise=8)
    for penalties in ((1e6, 0.01), (0.01, 1e6)):
        assert fit_logistic(features, targets, 3, penalties).probe.settings["penalty"] == 0.01


def test_logistic_regression_has_come_to_its_end() -> None:
    features, targets = load_digits(return_X_y=True)
    features, targets = features[:300], targets[:300]
    probe = fit_logistic(features, targets, 10, penalties=(0.01,)).probe
    rows, weights = probe.standard(features), probe.weights
    logits = probe.logits(features)
    chances = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    # At the minimum of mean loss + penalty / 2 |w|^2 its gradient is 0.
    gradient = rows.T @ (chances - (signed(targets, 10) + 1) / 2) / 300 + 0.01 * weights
    assert np.abs(gradient).max() < 1e-6


@pytest.mark.parametrize("width", [5, 60])  # less and more than there are images
def test_the_closed_form_is_ridge_regression(width: int) -> None:
    generator = np.random.default_rng(0)
    rows, targets = generator.normal(size=(40, width)), np.tile(np.arange(4), 10)
    rows -= rows.mean(axis=0)
    weights, bias = least_squares(rows, signed(targets, 4), [3.0, 0.5])
    for found, penalty in zip(weights, (3.0, 0.5), strict=True):
        expected = Ridge(alpha=penalty, solver="svd").fit(rows, signed(targets, 4))
        np.testing.assert_allclose(found, expected.coef_.T, atol=1e-9)
        np.testing.assert_allclose(bias, expected.intercept_, atol=1e-9)


def test_the_validation_split_is_a_fifth_of_each_class_and_leaves_each_an_image() -> None:
    targets = np.repeat([0, 1, 2, 3, 4], [1, 2, 4, 9, 20])
    chosen = held_back(targets)
    assert np.bincount(targets[chosen], minlength=5).tolist() == [0, 1, 1, 1, 4]
    np.testing.assert_array_equal(chosen, held_back(targets))
    with pytest.raises(ValueError, match="no class has two"):
        held_back([0, 1, 2])


def test_views_of_one_thing_are_held_back_together_and_each_class_keeps_one() -> None:
    targets = np.repeat([0, 1, 2], [40, 12, 6])
    views = [f"{label} {place // 4}" for label, place in zip(targets, np.arange(58), strict=True)]
    sources = [*views[:52], None, None, *["the same"] * 4]
    chosen = held_back(targets, sources)
    named = np.asarray([str(source) for source in sources])
    assert not set(named[chosen]) & set(np.delete(named, chosen)) - {"None"}
    assert np.bincount(targets[chosen])[:2].tolist() == [8, 4]
    assert 0 < np.bincount(targets[chosen])[2] < 6
    np.testing.assert_array_equal(held_back(targets, [None] * 58), held_back(targets))
    with pytest.raises(ValueError, match="of two sources"):
        held_back([0, 0, 1], ["a", "a", None])


@pytest.mark.parametrize("fit", FITS)
def test_what_is_known_by_heart_is_not_taken_for_what_is_understood(fit: Fit) -> None:
    # Noise, in four views of each: a classifier that is chosen by views of what it has learnt is sure of itself.
    generator = np.random.default_rng(0)
    features = np.repeat(generator.normal(size=(60, 40)), 4, axis=0) + 0.01 * generator.normal(size=(240, 40))
    targets, sources = np.repeat(np.arange(60) % 3, 4), [str(place) for place in np.repeat(np.arange(60), 4)]
    parted, together = fit(features, targets, 3), fit(features, targets, 3, sources=sources)
    right = [
        float((each.held.logits(features[each.validation]).argmax(1) == targets[each.validation]).mean())
        for each in (parted, together)
    ]
    assert right[0] > 0.8
    assert right[1] < 0.6


@pytest.mark.parametrize("fit", FITS)
def test_what_cannot_be_learnt_from_is_told(fit: Fit) -> None:
    features, targets = clusters(3, 4)
    with pytest.raises(ValueError, match="1 of 4 classes have no training image, the first is number 3"):
        fit(features, targets, 4)
    with pytest.raises(ValueError, match=r"go from 0 to 2; expected 0 to 1"):
        fit(features, targets, 2)
    with pytest.raises(ValueError, match="not finite"):
        fit(np.full_like(features, np.nan), targets, 3)
    with pytest.raises(ValueError, match=r"expected \[n, D\], \[n\]"):
        fit(features[:5], targets, 3)


def test_learning_rates_that_all_diverge_are_told() -> None:
    with pytest.raises(ValueError, match="diverges with every learning_rate"):
        fit_sgd(*clusters(3, 20, noise=30), 3, rates=(float("inf"),))


def test_the_sweep_of_penalties_ends_where_the_validation_loss_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = clusters(3, 25, noise=12)
    whole = fit_logistic(features, targets, 3)
    monkeypatch.setattr("train.evaluators.linear_probe.TOO_MUCH", np.inf)
    every = fit_logistic(features, targets, 3)
    assert whole.probe.settings == every.probe.settings
    np.testing.assert_allclose(whole.probe.logits(features), every.probe.logits(features), atol=1e-5)
    assert every.probe.settings["penalty"] > PENALTIES[-2]
