import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.evaluators import grids
from train.evaluators.depth import MORE_IS_BETTER, constant, errors, table, valid
from train.evaluators.depth_heads import KINDS, STAGES, depth_head, predicted, scale_invariant, stages, training_depths

TRUE = np.asarray([[1.0, 2.0], [4.0, np.nan]])
SAID = np.asarray([[1.2, 2.0], [2.0, 9.0]])


def test_hand_computed():
    found = errors(SAID, TRUE)
    assert found == pytest.approx(
        {
            "MSE": (0.04 + 0 + 4) / 3,
            "RMSE": np.sqrt(4.04 / 3),
            "AbsRel": (0.2 + 0 + 0.5) / 3,
            "delta < 1.1": 1 / 3,
            "delta < 1.25": 2 / 3,
            "delta < 1.25^2": 2 / 3,
        }
    )
    assert set(found) == set(MORE_IS_BETTER)


def test_perfect_is_0_and_1():
    for align in ("none", "median"):
        found = errors(np.where(np.isnan(TRUE), 7.0, TRUE), TRUE, align)
        assert all(value == (1 if MORE_IS_BETTER[name] else 0) for name, value in found.items())


def test_median_alignment_leaves_the_scale_out_and_nothing_else():
    said = np.asarray([[1.0, 3.0], [4.0, 9.0]])
    aligned, scaled = errors(said, TRUE, "median"), errors(5 * said, TRUE, "median")
    assert aligned == pytest.approx(scaled)
    # The medians over the valid pixels are 3 and 2: the prediction becomes 2/3, 2, 8/3.
    assert aligned["MSE"] == pytest.approx(((1 / 3) ** 2 + 0 + (4 / 3) ** 2) / 3)
    assert errors(5 * said, TRUE)["MSE"] > 10


def test_a_threshold_is_not_below_itself():
    assert errors(np.asarray([[1.25]]), np.ones((1, 1)))["delta < 1.25"] == 0
    assert errors(np.ones((1, 1)), np.asarray([[1.2499]]))["delta < 1.25"] == 1


def test_pixels_without_a_depth_count_nowhere():
    true = np.asarray([[1.0, 0.0, -2.0, np.inf, np.nan]])
    np.testing.assert_array_equal(valid(true), [[True, False, False, False, False]])
    assert errors(np.asarray([[1.0, 5.0, 5.0, 5.0, 5.0]]), true)["MSE"] == 0
    assert constant([true, np.asarray([[3.0, 5.0]])]) == 3


def test_a_set_is_the_mean_over_its_images():
    found = table([(SAID, TRUE), (SAID[:1], TRUE[:1])])
    np.testing.assert_allclose(found["none"]["AbsRel"], [0.7 / 3, 0.1])
    assert [each["AbsRel"] for each in (errors(SAID, TRUE, "median"), errors(SAID[:1], TRUE[:1], "median"))] == list(
        found["median"]["AbsRel"]
    )


def test_what_cannot_be_measured_is_told():
    with pytest.raises(ValueError, match="resize it"):
        errors(SAID[:1], TRUE)
    with pytest.raises(ValueError, match="no pixel has a depth"):
        errors(SAID, np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="not above 0"):
        errors(np.zeros((2, 2)), TRUE)


def test_the_loss_by_hand():
    said = jnp.asarray([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]], jnp.float32)[..., None]
    depths = np.exp([[[0.5, 0.0], [2.0, np.nan]], [[0.0, 0.0], [0.0, 0.0]]]).astype(np.float32)
    d = np.asarray([-0.5, 1.0, 0.0])
    first, second = (d**2).mean() - 0.5 * d.mean() ** 2, 1 - 0.5 * 1
    assert float(scale_invariant(said, depths)) == pytest.approx((first + second) / 2, rel=1e-5)
    gradient = jax.grad(scale_invariant)(said, depths)
    assert np.isfinite(gradient).all()
    assert float(gradient[0, 1, 1, 0]) == 0


def test_training_depths_mark_what_is_missing():
    found = training_depths([np.asarray([[1.0, np.nan], [np.inf, -1.0]])], 1)
    np.testing.assert_array_equal(found[0, ::2, ::2], [[1, 0], [0, 0]])
    assert found.shape == (1, 4, 4)


def test_stages_lie_evenly_and_take_the_last():
    assert stages(range(48)) == (11, 23, 35, 47)
    assert stages([3, 1, 0, 2]) == (0, 1, 2, 3)
    assert stages([2, 5]) == (2, 2, 5, 5)
    assert stages([7]) == (7,) * STAGES
    with pytest.raises(ValueError, match="no layer"):
        stages([])


def planted(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, 9, 5] that say how far their cell is, and depths [n, 12, 12] that go smoothly between the cells."""
    random = np.random.default_rng(seed)
    logs = random.normal(1.0, 0.5, (images, 3, 3))
    direction = np.random.default_rng(99).normal(size=5)
    tokens = logs.reshape(images, 9, 1) * direction + 0.1 * random.normal(size=(images, 9, 5))
    smooth = [grids.resized_picture(each[..., None].astype(np.float32), 12, 12)[..., 0] for each in logs]
    return tokens.astype(np.float32), np.exp(np.stack(smooth))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "DPT" else []) for kind in KINDS]
)
def test_heads_learn_planted_depths_and_rounding_changes_nothing(kind):
    (tokens, depths), (tests, wanted) = planted(32, 0), planted(16, 1)
    layers = 1 if kind == "linear" else STAGES
    head = depth_head(kind, 5, constant(depths), 120 if kind == "linear" else 40)
    found = []
    for size in (0.0, 1e-6):
        wobble = size * np.random.default_rng(2).normal(size=tokens.shape).astype(np.float32)
        logs = head(head.fit((tokens + wobble,) * layers, training_depths(depths, 9)), (tests,) * layers)
        said = [predicted(log, (12, 12)) for log in logs]
        found.append({name: each.mean() for name, each in table(zip(said, wanted, strict=True))["none"].items()})
    guess = table((np.full((12, 12), constant(depths)), each) for each in wanted)["none"]
    assert found[0]["AbsRel"] < 0.6 * guess["AbsRel"].mean()
    assert found[0]["delta < 1.25"] > guess["delta < 1.25"].mean() + 0.2
    for name, value in found[0].items():
        assert abs(found[1][name] - value) < 1e-4
    start = predicted(head(head.start, (tests,) * layers)[0], (12, 12))
    np.testing.assert_allclose(start, constant(depths), rtol=1e-5)
