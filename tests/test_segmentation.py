import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import zoom

from train.evaluators import grids
from train.evaluators.grids import Standard, Standardised
from train.evaluators.segmentation import VOID, confusion, constant, mean_iou, scores
from train.evaluators.segmenters import KINDS, cross_entropy, predicted, segmenter, training_labels

LABELS = np.asarray([[0, 0, 1], [1, 2, VOID]])
FOUND = np.asarray([[0, 1, 1], [1, 1, 2]])


def test_hand_computed():
    counts = confusion(LABELS, FOUND, 4)
    np.testing.assert_array_equal(counts[:3, :3], [[1, 1, 0], [0, 2, 0], [0, 1, 0]])
    found = scores(counts)
    # Of class 0 one pixel of two is found; of 1 both, and two others are taken for it; 2 is not found; 3 is nowhere.
    np.testing.assert_allclose(found.ious, [1 / 2, 2 / 4, 0, np.nan])
    assert found.mean_iou == pytest.approx((1 / 2 + 2 / 4 + 0) / 3)
    assert found.pixel_accuracy == pytest.approx(3 / 5)
    assert found.class_accuracy == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_a_class_that_is_only_predicted_counts_as_0():
    found = scores(confusion(np.zeros((1, 4), int), np.asarray([[0, 0, 0, 3]]), 4))
    assert found.mean_iou == pytest.approx((3 / 4 + 0) / 2)
    assert found.class_accuracy == pytest.approx(3 / 4)


@pytest.mark.parametrize("seed", range(3))
def test_perfect_is_1_and_the_best_constant_is_exact(seed):
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 3, VOID], size=(20, 30), p=[0.1, 0.4, 0.2, 0.1, 0.2])
    shown = labels[labels != VOID]
    right = confusion(labels, np.where(labels == VOID, 0, labels), 5)
    assert (scores(right).mean_iou, scores(right).pixel_accuracy, scores(right).class_accuracy) == (1, 1, 1)
    shares = [(shown == kind).mean() for kind in range(5)]
    for kind in range(4):
        always = scores(confusion(labels, np.full_like(labels, kind), 5))
        assert always.mean_iou == pytest.approx(shares[kind] / 4)
        assert always.pixel_accuracy == pytest.approx(shares[kind])
        assert always.class_accuracy == pytest.approx(1 / 4)
    best = constant(confusion(labels, random.integers(0, 5, labels.shape), 5))
    assert best.mean_iou == pytest.approx(max(shares) / 4)
    assert best.pixel_accuracy == pytest.approx(max(shares))


def test_a_set_is_counted_as_one_image():
    random = np.random.default_rng(0)
    labels, found = random.integers(0, 3, (2, 4, 6, 6))
    each = [confusion(*pair, 3) for pair in zip(labels, found, strict=True)]
    whole = confusion(labels.reshape(4, -1), found.reshape(4, -1), 3)
    np.testing.assert_array_equal(sum(each), whole)
    np.testing.assert_allclose(mean_iou(np.stack(each)), [scores(counts).mean_iou for counts in each])


def test_what_cannot_be_measured_is_told():
    with pytest.raises(ValueError, match=r"prediction of \(2, 2\) for labels of \(2, 3\)"):
        confusion(LABELS, FOUND[:, :2], 3)
    with pytest.raises(ValueError, match="a prediction has the class 2"):
        confusion(np.zeros((2, 3), int), FOUND, 2)
    with pytest.raises(ValueError, match="every pixel is void"):
        scores(confusion(np.full((2, 2), VOID), np.zeros((2, 2), int), 2))


def test_standard_features_have_mean_0_and_deviation_1():
    features = np.random.default_rng(0).normal(3, 2, (50, 4, 3)).astype(np.float32)
    features[..., 2] = 7.0  # a constant stays finite
    standard = Standard.of(features)
    found = standard(features)
    np.testing.assert_allclose(found.mean((0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(found.std((0, 1)), [1, 1, 0], atol=1e-3)
    np.testing.assert_array_equal(standard(jnp.asarray(features)), found)


def test_features_are_standardised_part_by_part_to_the_last_bit():
    features = np.random.default_rng(0).normal(3, 2, (50, 4, 3)).astype(np.float32)
    features.flags.writeable = False  # as what is read from the disk
    standard, rows = Standard.of(features), features.reshape(-1, 3).astype(np.float64)
    np.testing.assert_array_equal(standard.mean, rows.mean(axis=0).astype(np.float32))
    np.testing.assert_array_equal(
        standard.scale, (1 / np.sqrt(rows.var(axis=0) + 1e-6 * rows.var(axis=0).mean())).astype(np.float32)
    )
    taken = Standardised(features, standard)
    assert (len(taken), taken.shape) == (50, (50, 4, 3))
    np.testing.assert_array_equal(taken[np.asarray([7, 3])], standard(features)[[7, 3]])


@pytest.mark.parametrize(("source", "target"), [(2, 4), (3, 7), (8, 112), (5, 5)])
def test_resizing_is_jax_bilinear(source, target):
    picture = np.random.default_rng(0).normal(size=(source, source, 2)).astype(np.float32)
    wanted = jax.image.resize(picture, (target, target + 1, 2), "bilinear")
    np.testing.assert_allclose(grids.resized_picture(picture, target, target + 1), wanted, atol=1e-5)
    np.testing.assert_allclose(grids.resized(picture[None], target, target + 1)[0], wanted, atol=1e-5)


def test_halving_takes_means_and_nearest_the_centres():
    picture = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    np.testing.assert_allclose(grids.halved(picture[None, ..., None])[0, ..., 0], [[2, 3.5], [6.5, 8]])
    np.testing.assert_array_equal(grids.nearest(picture, 1), [[4]])
    np.testing.assert_array_equal(grids.nearest(picture, 6), zoom(picture, 2, order=0))
    np.testing.assert_array_equal(grids.nearest(np.arange(8).reshape(2, 4), 2), [[1, 3], [5, 7]])


def test_tokens_that_are_no_square_are_told():
    with pytest.raises(ValueError, match="15 tokens form no square"):
        grids.side(15)


def test_void_pixels_teach_nothing():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 2, 3)), jnp.float32)
    labels = np.asarray([[[0, VOID], [1, 2]], [[VOID, VOID], [2, 2]]], np.uint8)
    value, gradient = jax.value_and_grad(cross_entropy)(logits, labels)
    each = -jax.nn.log_softmax(logits)
    wanted = [each[0, 0, 0, 0], each[0, 1, 0, 1], each[0, 1, 1, 2], each[1, 1, 0, 2], each[1, 1, 1, 2]]
    assert float(value) == pytest.approx(float(sum(wanted)) / 5, rel=1e-5)
    np.testing.assert_array_equal((np.asarray(gradient) != 0).any(axis=-1), labels != VOID)
    assert float(cross_entropy(logits, np.full_like(labels, VOID))) == 0


def planted(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, 4, 6] that say which of three classes their cell [n, 16, 16] is of."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 3, (images, 2, 2))
    vectors = np.random.default_rng(99).normal(size=(3, 6))
    tokens = vectors[cells].reshape(images, 4, 6) + 0.3 * random.normal(size=(images, 4, 6))
    return tokens.astype(np.float32), cells.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "decoder" else []) for kind in KINDS]
)
def test_heads_learn_planted_classes_and_rounding_changes_nothing(kind):
    (tokens, masks), (tests, wanted) = planted(48, 0), planted(32, 1)
    head = segmenter(kind, 6, 3, 60)
    noise = np.random.default_rng(2).normal(size=tokens.shape).astype(np.float32)

    def measured(learnt: np.ndarray, asked: np.ndarray) -> float:
        logits = head(head.fit((learnt,), training_labels(masks, 4)), (asked,))
        return scores(sum(confusion(m, predicted(x, m.shape), 3) for m, x in zip(wanted, logits, strict=True))).mean_iou

    clear, wobbly, blind = measured(tokens, tests), measured(tokens + 1e-6 * noise, tests), measured(noise, -noise[:32])
    assert clear > 0.8  # bilinear edges cost what is left
    assert abs(wobbly - clear) < 1e-4
    assert blind < 0.4
