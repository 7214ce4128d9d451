import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score, roc_curve

from train.evaluators import detection
from train.evaluators.detection import auroc, fit_gaussians, fpr95, intervals, max_softmax


def test_extreme_scores_have_the_extreme_numbers():
    inside, outside = np.arange(10.0) + 100, np.arange(20.0)
    assert (auroc(inside, outside), fpr95(inside, outside)) == (1.0, 0.0)
    assert (auroc(-inside, -outside), fpr95(-inside, -outside)) == (0.0, 1.0)
    assert (auroc(np.ones(10), np.ones(20)), fpr95(np.ones(10), np.ones(20))) == (0.5, 1.0)


def test_drawing_lots_has_the_numbers_of_chance():
    random = np.random.default_rng(0)
    inside, outside = random.random(20_000), random.random(30_000)
    assert auroc(inside, outside) == pytest.approx(0.5, abs=0.01)
    assert fpr95(inside, outside) == pytest.approx(detection.KEPT, abs=0.01)


def test_by_hand():
    # Of 20 inside one may be lost; the threshold is 1, which 3 of 4 outside reach.
    inside = np.arange(20.0)
    assert fpr95(inside, [0.5, 1.0, 7.0, 30.0]) == 0.75
    # Pairs (inside, outside) in the right order: (1, 0), (3, 0), (3, 2), and (2, 2) counts half.
    assert auroc([1, 2, 3], [0, 2]) == pytest.approx((1 + 1.5 + 2) / 6)


def test_agrees_with_the_curve_of_scikit_learn():
    random = np.random.default_rng(1)
    inside, outside = random.normal(1, 1, 160).round(2), random.normal(0, 1, 240).round(2)
    rates, kept, _ = roc_curve(
        np.repeat([1, 0], [160, 240]), np.concatenate([inside, outside]), drop_intermediate=False
    )
    assert fpr95(inside, outside) == rates[kept >= 0.95].min()


def test_intervals_are_those_of_drawn_samples():
    random = np.random.default_rng(2)
    inside, outside = random.normal(1, 1, 60).round(1), random.normal(0, 1, 80).round(1)
    found = intervals(inside, outside, 0)
    drawn = []
    for _ in range(300):
        one, two = random.choice(inside, 60), random.choice(outside, 80)
        truth = np.repeat([1, 0], [60, 80])
        drawn.append([roc_auc_score(truth, np.concatenate([one, two])), fpr95(one, two)])
    expected = np.quantile(drawn, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(found["auroc"], expected[:, 0], atol=0.02)
    np.testing.assert_allclose(found["fpr95"], expected[:, 1], atol=0.06)
    assert found == intervals(inside, outside, 0)


def test_max_softmax_is_the_best_probability_and_tells_sure_ones_apart():
    np.testing.assert_allclose(expit(max_softmax([[0, 0], [np.log(3), 0]])), [0.5, 0.75])
    nearly = max_softmax([[40.0, 0.0], [60.0, 0.0]])
    assert expit(nearly[0]) == expit(nearly[1]) == 1
    assert nearly[0] < nearly[1]
    logits = 3 * np.random.default_rng(0).normal(size=(200, 5))
    np.testing.assert_allclose(expit(max_softmax(logits)), softmax(logits, axis=1).max(axis=1))


def test_sure_images_are_not_parted_by_rounding():
    # Probabilities of all inside and of half outside round to 1; their order is what the logits say.
    random = np.random.default_rng(7)
    inside, outside = (np.stack([random.normal(60, 3, 50), np.zeros(50)], 1) for _ in range(2))
    outside[::2] /= 3
    expected = auroc(inside[:, 0], outside[:, 0])
    for wobble in (0.0, 1e-6):
        noisy = [max_softmax(each + wobble * random.normal(size=each.shape)) for each in (inside, outside)]
        assert auroc(*noisy) == pytest.approx(expected, abs=1e-4)


def test_mahalanobis_distance_is_that_of_the_tied_covariance():
    random = np.random.default_rng(3)
    targets = np.arange(300) % 3
    means = np.array([[0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 5.0]])
    features = means[targets] + random.normal(size=(300, 4)) @ (
        np.diag([1, 0.1, 3, 1]) + 0.5 * random.normal(size=(4, 4))
    )
    fitted = fit_gaussians(features, targets)
    centres = np.stack([features[targets == each].mean(0) for each in range(3)])
    scale = (features - centres[targets]).std(0)
    estimate = LedoitWolf(assume_centered=True).fit((features - centres[targets]) / scale)
    inverse = np.linalg.inv(estimate.covariance_ * np.outer(scale, scale))
    given = random.normal(size=(7, 4))
    expected = [-min((x - m) @ inverse @ (x - m) for m in centres) for x in given]
    np.testing.assert_allclose(fitted.score(given), expected, rtol=1e-9)
    assert fitted.shrinkage == pytest.approx(estimate.shrinkage_)
    assert 0 < fitted.shrinkage < 1
    np.testing.assert_allclose(fitted.score(centres), 0, atol=1e-12)


def test_mahalanobis_sees_what_lies_off_the_classes_where_distances_do_not():
    random = np.random.default_rng(4)
    scale = np.array([10.0, 0.1])
    features = random.normal(size=(400, 2)) * scale + np.array([[0, 0], [0, 3.0]])[np.arange(400) % 2]
    fitted = fit_gaussians(features, np.arange(400) % 2)
    inside = random.normal(size=(200, 2)) * scale
    outside = np.stack([random.normal(size=200), np.full(200, 1.5)], 1)  # nearer to the mean than most inside
    assert auroc(fitted.score(inside), fitted.score(outside)) > 0.999


def test_more_features_than_images_have_a_covariance_by_shrinkage():
    random = np.random.default_rng(5)
    targets = np.arange(20) % 2
    features = random.normal(size=(20, 50)) + 4 * targets[:, None]
    scores = fit_gaussians(features, targets).score(features)
    assert np.isfinite(scores).all()
    far = fit_gaussians(features, targets).score(np.full((1, 50), 40.0))
    assert far[0] < scores.min()


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (np.zeros((2, 3)), [0, 1], "a class with two images"),
        (np.zeros((4, 3)), [0, 1], "expected"),
        (np.ones((4, 3)), [0, 0, 1, 1], "one feature vector"),
    ],
)
def test_what_has_no_covariance_is_refused(features, targets, message):
    with pytest.raises(ValueError, match=message):
        fit_gaussians(features, targets)


def test_scores_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="1 or more each"):
        auroc([], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        fpr95([1.0], [np.nan])
    fitted = fit_gaussians(np.random.default_rng(6).normal(size=(8, 3)), np.arange(8) % 2)
    with pytest.raises(ValueError, match=r"expected \[n, 3\]"):
        fitted.score(np.zeros((2, 4)))
