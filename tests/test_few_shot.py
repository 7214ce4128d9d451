import numpy as np
import pytest

from train.evaluators.few_shot import PENALTY, draw, evaluate, fit


def planted(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(5).normal(size=(4, 16)) * 3
    targets = np.tile(np.arange(4), images)
    return centres[targets] + np.random.default_rng(seed).normal(size=(len(targets), 16)) * 0.1, targets


def test_planted_classes_are_found_from_a_single_image_each() -> None:
    found = evaluate(*planted(30), *planted(50, seed=1), 4)
    assert found.shots == (1, 5, 10, 25)
    assert found.right.shape == (4, 3, 200)
    assert found.mean.tolist() == [1.0] * 4
    assert found.deviation.tolist() == [0.0] * 4


def test_noise_gives_chance() -> None:
    generator = np.random.default_rng(0)
    features, targets = generator.normal(size=(400, 16)), np.tile(np.arange(4), 100)
    found = evaluate(features, targets, generator.normal(size=(2000, 16)), np.tile(np.arange(4), 500), 4)
    assert np.abs(found.mean - 0.25).max() < 0.04


def test_more_shots_are_better_where_images_are_noisy() -> None:
    generator = np.random.default_rng(0)
    noise = lambda images: 4 * generator.normal(size=(4 * images, 16))  # noqa: E731
    clean, targets = planted(100)
    tests, wanted = planted(300, seed=1)
    found = evaluate(clean + noise(100), targets, tests + noise(300), wanted, 4)
    assert (np.diff(found.mean) > 0).all()
    assert (found.deviation > 0).all()


def test_shots_are_of_each_class_and_fewer_are_among_more() -> None:
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 40))
    five, ten = draw(targets, 5, seed=2), draw(targets, 10, seed=2)
    assert np.bincount(targets[five]).tolist() == [5, 5, 5]
    assert set(five) < set(ten)
    assert set(draw(targets, 5, seed=3)) != set(five)
    np.testing.assert_array_equal(five, draw(targets, 5, seed=2))


def test_the_classifier_is_the_one_of_the_normal_equations() -> None:
    features, targets = np.random.default_rng(0).normal(size=(12, 5)) * [1, 2, 3, 4, 5], np.tile([0, 1, 2], 4)
    white = (features - features.mean(0)) / features.std(0)
    signs = np.where(np.arange(3) == targets[:, None], 1.0, -1.0)
    weights = np.linalg.solve(white.T @ white + PENALTY * np.eye(5), white.T @ signs)
    np.testing.assert_allclose(fit(features, targets, 3).logits(features), white @ weights + signs.mean(0), atol=1e-12)


def test_numbers_of_shots_that_a_class_does_not_have_are_left_out() -> None:
    features, targets = planted(30)
    few = np.concatenate([np.flatnonzero(targets != 3), np.flatnonzero(targets == 3)[:7]])
    assert evaluate(features[few], targets[few], features, targets, 4).shots == (1, 5)
    with pytest.raises(ValueError, match="smallest class has 7 training images; expected 10 or more"):
        evaluate(features[few], targets[few], features, targets, 4, shots=(10, 25))


def test_one_seed_has_no_deviation() -> None:
    assert np.isnan(evaluate(*planted(5), *planted(5, seed=1), 4, seeds=1).deviation).all()


def test_test_features_that_are_not_finite_are_told_and_not_taken_for_the_first_class() -> None:
    features, targets = planted(5)
    with pytest.raises(ValueError, match="not finite"):
        evaluate(features, targets, np.full_like(features, np.nan), targets, 4)
