import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.towers import ZERO_SHOT, random_params
from train.optimizer import Optimizer, advice, make, schedule
from vit22b.tree import leaves

PAPER = Optimizer()
STEPS = 177_000


def rates(steps, settings=PAPER, length=STEPS):
    return np.asarray(schedule(settings, length)(jnp.asarray(steps)), np.float64)


def test_the_rate_peaks_after_the_warm_up_and_ends_at_0():
    np.testing.assert_allclose(rates(10_000), 1e-3, rtol=1e-6)
    assert rates(STEPS) == 0
    assert rates(0) == 0
    assert rates(STEPS + 1) == 0


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (1, 1e-3 / 10_000),
        (2_500, 2.5e-4),
        (40_000, 1e-3 / 2),
        (147_000, 1e-3 * (10 / 147) ** 0.5),
        (162_000, 1e-3 * (10 / 162) ** 0.5 / 2),
        (176_999, 1e-3 * (10_000 / 176_999) ** 0.5 / 30_000),
    ],
)
def test_the_rate_follows_its_formula(step, rate):
    np.testing.assert_allclose(rates(step), rate, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "length"),
    [(PAPER, STEPS), (Optimizer(peak=0.3, warmup=7, cooldown=5), 50), (Optimizer(warmup=30, cooldown=40), 50)],
)
def test_the_rate_rises_falls_and_is_never_above_its_peak(settings, length):
    found = rates(np.linspace(0, length, 51).astype(int), settings, length)
    assert found.max() <= settings.peak * (1 + 1e-6)
    turn = found.argmax()
    assert (np.diff(found[: turn + 1]) > 0).all()
    assert (np.diff(found[turn:]) < 0).all()


def test_warmup_stable_decay_is_constant_between():
    settings = Optimizer(schedule="wsd", peak=0.5, warmup=10, cooldown=20)
    found = rates([0, 5, 10, 50, 80, 90, 100], settings, 100)
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.5, 0.5, 0.25, 0], rtol=1e-6)


def test_a_schedule_for_a_longer_run_is_told():
    assert advice(Optimizer(), 177_000) is None
    note = advice(Optimizer(), 30)
    assert note.startswith("note: --warmup 10000 and --cooldown 30000 are long for 30 steps: the learning rate never")
    assert note.endswith("where --peak is 0.001")


def test_a_cosine_falls_to_0_behind_the_warm_up():
    settings = Optimizer(schedule="cosine", peak=0.5, warmup=20, cooldown=7)
    found = rates([0, 5, 20, 60, 100], settings, 100)
    np.testing.assert_allclose(found, [0, 0.125, 0.5, 0.25, 0], atol=1e-7)
    with pytest.raises(ValueError, match="--warmup is 20 of 20 steps, which leaves none for the cosine"):
        schedule(settings, 20)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_an_average_that_cannot_be_is_named(decay):
    with pytest.raises(ValueError, match=f"--ema is {decay}; expected a decay below 1"):
        Optimizer(ema=decay)


@pytest.mark.parametrize("name", ["peak", "warmup", "cooldown", "clip"])
@pytest.mark.parametrize("value", [0, -1])
def test_settings_that_cannot_be_are_named(name, value):
    with pytest.raises(ValueError, match=f"--{name} is {value}; expected a number above 0"):
        Optimizer(**{name: value})


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_only_kernels_decay_and_the_heads_a_hundred_times_as_much(name):
    settings = Optimizer(name, peak=0.5, warmup=2, cooldown=2)
    optimizer = make(settings, 10)
    params = random_params(ZERO_SHOT)
    # Without a gradient, the decay is all that moves a parameter. The first update has the rate of step 1.
    first = jax.jit(lambda: optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params))
    updates, _ = first.lower().compile()()
    decays = {"head/kernel": 3.0, "logit_scale": 0.0}
    for path, leaf in leaves(params).items():
        decay = decays.get(path, 0.03 if path.endswith("/kernel") else 0.0)
        np.testing.assert_allclose(leaves(updates)[path], -0.25 * decay * leaf, rtol=1e-5, err_msg=path)


def test_there_are_parameters_of_every_kind_without_decay():
    kinds = {path.split("/")[-1] for path in leaves(random_params(ZERO_SHOT))} - {"kernel"}
    assert kinds == {"scale", "bias", "probe", "position_embedding", "token_embedding", "logit_scale"}


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_the_first_moment_is_bfloat16(name):
    params = random_params(ZERO_SHOT)
    state = jax.eval_shape(make(Optimizer(name), 10).init, params)
    half = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
    assert half == [leaf.shape for leaf in jax.tree.leaves(params)]


def test_adafactor_keeps_rows_and_columns_of_a_big_kernels_second_moment():
    kernel = jax.ShapeDtypeStruct((48, 6144, 24576), jnp.float32)
    state = jax.eval_shape(make(PAPER, STEPS).init, {"kernel": kernel})
    whole = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape == kernel.shape]
    assert whole == [jnp.bfloat16], "the first moment alone has the kernel's size"
    found = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert {(48, 6144), (48, 24576)} <= found


def second_moment(state):
    """The unfactored second moment of the leaf `bias`."""
    factored = next(s for s in jax.tree.leaves(state, is_leaf=_is_factored) if _is_factored(s))
    return np.asarray(factored.v["bias"], np.float64)


def _is_factored(node):
    return isinstance(node, optax.FactoredState)


def test_adafactors_second_moment_forgets_with_power_08_up_to_0999():
    params = {"bias": jnp.ones(4)}
    optimizer = make(Optimizer(clip=1e9), STEPS)
    gradients = [np.array([1.0, -2.0, 3.0, 1e-3]), np.array([0.5, 0.0, -1.0, 1.0]), np.array([2.0, 1.0, 1.0, 1.0])]
    state, expected = optimizer.init(params), np.zeros(4)
    for step, gradient in enumerate(gradients, 1):
        _, state = optimizer.update({"bias": jnp.asarray(gradient, jnp.float32)}, state, params)
        decay = 1 - step**-0.8
        expected = decay * expected + (1 - decay) * gradient**2
        np.testing.assert_allclose(second_moment(state), expected, rtol=1e-5)
    late = optax.tree.set(state, count=jnp.asarray(10**6))
    _, late = optimizer.update({"bias": jnp.zeros(4)}, late, params)
    np.testing.assert_allclose(second_moment(late), 0.999 * expected, rtol=1e-5)


def test_the_update_is_the_mean_of_normalised_gradients_times_the_rate():
    params = {"bias": jnp.ones(2)}
    optimizer = make(Optimizer(peak=0.5, warmup=1, cooldown=1), 100)
    state = optimizer.init(params)
    gradient = {"bias": jnp.array([0.3, -0.01])}
    first, state = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(first["bias"], [-0.5 * 0.1, 0.5 * 0.1], rtol=4e-3)
    second, _ = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(second["bias"], np.array([-1, 1]) * 0.5**0.5 * 0.5 * (0.9 * 0.1 + 0.1), rtol=8e-3)


@pytest.mark.parametrize(("norm", "seen"), [(0.5, 0.5), (1.0, 1.0), (50.0, 1.0)])
def test_a_long_gradient_is_scaled_to_the_norm_of_the_clip(norm, seen):
    params = {"bias": jnp.ones(3), "probe": jnp.ones(1)}
    direction = {"bias": jnp.array([1.0, -2.0, 2.0]), "probe": jnp.array([4.0])}
    gradient = jax.tree.map(lambda leaf: leaf * norm / 5, direction)
    optimizer = make(PAPER, STEPS)
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    # After one step the second moment is the square of the gradient that came through.
    np.testing.assert_allclose(second_moment(state), (np.array(direction["bias"]) * seen / 5) ** 2, rtol=1e-5)
