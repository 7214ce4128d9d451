import numpy as np
import pytest

from train.evaluators.video import averaged, right, starts, temporal_transformer

FRAMES, WIDTH = 4, 3


def test_views_lie_evenly():
    assert starts(12, 8, 2) == (0, 4)
    assert starts(12, 8, 1) == (2,)
    assert starts(13, 8, 3) == (0, 2, 5)
    assert starts(9, 8, 4) == (0, 1)
    assert starts(8, 8, 3) == (0,)
    with pytest.raises(ValueError, match="a clip of 7 frames for views of 8"):
        starts(7, 8, 1)


def test_probabilities_are_averaged_not_logits():
    # A sample that is sure outweighs one that is not in logits: 0 by 4 to 1. In probabilities both say it equally.
    logits = np.log([[[0.9, 0.1], [0.2, 0.8]]]) + np.asarray([[[5.0], [-7.0]]])
    np.testing.assert_allclose(averaged(logits), [[0.55, 0.45]])
    assert np.isfinite(averaged(np.asarray([[[1000.0, -1000.0]]]))).all()


def test_perfect_is_1_and_among_equals_the_first_is_taken():
    said = np.asarray([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [0.1, 0.8, 0.1]])
    np.testing.assert_array_equal(right(said, np.asarray([0, 2, 1])), [1, 1, 1])
    np.testing.assert_array_equal(right(said, np.asarray([1, 0, 0])), [0, 0, 0])


def moving(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, F, D] of frames that are the same in every class; what is told apart is their order alone."""
    random = np.random.default_rng(seed)
    classes = np.arange(clips) % 2
    times = np.linspace(-1, 1, FRAMES)[None, :, None] * np.where(classes, 1, -1)[:, None, None]
    direction = np.asarray([1.0, -1.0, 0.5])
    return (times * direction + 0.2 * random.normal(size=(clips, FRAMES, WIDTH))).astype(np.float32), classes


def test_the_transformer_learns_an_order_and_rounding_changes_nothing():
    (clips, classes), (tests, wanted) = moving(64, 0), moving(32, 1)
    head = temporal_transformer(WIDTH, FRAMES, 2, 40)
    said = []
    for size in (0.0, 1e-6):
        wobble = size * np.random.default_rng(2).normal(size=clips.shape).astype(np.float32)
        said.append(averaged(head(head.fit((clips + wobble,), classes), (tests,))[:, None]))
    assert right(said[0], wanted).mean() == 1
    np.testing.assert_allclose(said[1], said[0], atol=1e-4)
    # Shown backwards, every clip is of the other class: it is the order that was learnt.
    params = head.fit((clips,), classes)
    assert right(averaged(head(params, (tests[:, ::-1],))[:, None]), wanted).mean() == 0
