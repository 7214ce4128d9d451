import numpy as np
import pytest

from train.evaluators.nearest_neighbours import votes


def test_planted_neighbours_and_noise() -> None:
    generator = np.random.default_rng(0)
    targets = np.tile(np.arange(5), 30)
    near = np.eye(5)[targets] + 0.05 * generator.normal(size=(150, 5))
    assert (votes(near, targets, np.eye(5), 5).argmax(axis=1) == np.arange(5)).all()
    noise = votes(generator.normal(size=(300, 8)), np.tile(np.arange(5), 60), generator.normal(size=(2000, 8)), 5)
    assert abs((noise.argmax(axis=1) == np.tile(np.arange(5), 400)).mean() - 0.2) < 0.04


def test_a_vote_is_weighted_by_the_exponential_of_the_cosine() -> None:
    # To the image at angle 0: neighbours at cosines 1, 0.8 and 0.6; of other lengths, which do not matter.
    features = [[3.0, 0.0], [0.8, 0.6], [6.0, 8.0], [-1.0, 0.0]]
    weights = np.exp(np.array([1.0, 0.8, 0.6]) / 0.07)
    found = votes(features, [0, 1, 1, 2], [[0.5, 0.0]], 3, neighbours=3)
    np.testing.assert_allclose(found[0], np.array([weights[0], weights[1] + weights[2], 0]) / weights.sum())


def test_of_equally_near_ones_the_first_vote() -> None:
    features = np.ones((6, 3))
    targets = [0, 1, 1, 0, 0, 0]
    assert votes(features, targets, [[1.0, 1, 1]], 2, neighbours=3).argmax() == 1
    assert votes(features, targets, [[1.0, 1, 1]], 2, neighbours=99)[0].tolist() == pytest.approx([4 / 6, 2 / 6])


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    given = (generator.normal(size=(40, 8)), np.tile(np.arange(4), 10), generator.normal(size=(33, 8)), 4)
    whole = votes(*given)
    monkeypatch.setattr("train.evaluators.nearest_neighbours.CHUNK", 100)
    np.testing.assert_allclose(votes(*given), whole, atol=1e-12)


def test_a_vector_that_points_nowhere_is_told() -> None:
    with pytest.raises(ValueError, match="points nowhere"):
        votes(np.zeros((4, 2)), [0, 1, 0, 1], [[1.0, 0.0]], 2)
