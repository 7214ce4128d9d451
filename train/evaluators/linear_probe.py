"""Linear classifiers of frozen features: by SGD, as the paper probes, in closed form, and by L-BFGS.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Each sweeps one setting,
chooses it by a validation split that is taken out of the training split (see features.held_back), and is then fitted
again on all of it. Chosen is what has the least loss on the validation split, not the most right answers: those come in
whole images, and change by one where features differ by a rounding.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from train.evaluators.features import Doubles, Indices, Sources, Standard, check_training, held_back
from train.evaluators.least_squares import least_squares, signed

RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of SGD
PENALTIES = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)  # penalty / 2 times the squared weights
BATCH = 64
MOMENTUM = 0.9
MOST_ITERATIONS = 20_000  # of L-BFGS; it ends by its tolerance
TOO_MUCH = 1.02  # L-BFGS tries no weaker penalty once the validation loss is so many times the least


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear classifier of frozen features.

    Attributes:
        standard: what features are standardised by, of those that it was fitted on.
        weights: float64 [D, k].
        bias: float64 [k].
        settings: how it was fitted, what the sweep has chosen included.
    """

    standard: Standard
    weights: Doubles
    bias: Doubles
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def logits(self, features: npt.ArrayLike) -> Doubles:
        """float64 [n, k] of features [n, D]; their softmax are probabilities, but for the closed form's."""
        return self.standard(features) @ self.weights + self.bias


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What a sweep ends with.

    Attributes:
        probe: fitted on the whole training split.
        held: fitted with the same setting on what the validation split leaves of it.
        validation: int64 [v], which training images `held` has not seen.
    """

    probe: Probe
    held: Probe
    validation: Indices


Fit = Callable[[Doubles, Indices, Sequence[float]], Iterable[Probe]]  # a probe for each setting of a sweep
Loss = Callable[[Doubles, Indices], float]


def fit_sgd(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: int,
    epochs: int = 10,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    sources: Sources | None = None,
) -> Chosen:
    """The paper's probe: softmax cross-entropy by SGD with momentum 0.9 and a cosine schedule, no weight decay.

    Batches are of 64, drawn without replacement in each epoch. Where the paper crops and flips the images a little, the
    features here are of the images as they are.

    Args:
        features: [n, D], of the training split.
        targets: int [n].
        classes: k; each has an image.
        epochs: of training, 10 in the paper.
        rates: learning rates that the sweep tries.
        seed: of the batches' order.
        sources: n names of what images are views of, which are held back together; see features.held_back.

    Raises:
        ValueError: see features.check_training and features.held_back; a diverged fit.
    """

    def fit(values: Doubles, found: Indices, swept: Sequence[float]) -> list[Probe]:
        standard = Standard.of(values)
        weights = _descend(standard(values), found, classes, epochs, swept, seed)
        return [Probe(standard, each[:-1], each[-1]) for each in weights]

    named = {"solver": "SGD", "momentum": MOMENTUM, "epochs": epochs, "batch": BATCH, "schedule": "cosine"}
    return _swept(fit, cross_entropy, features, targets, classes, "learning_rate", rates, named, sources)


def fit_ridge(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    sources: Sources | None = None,
) -> Chosen:
    """Least squares to targets of +1 and -1, with a penalty on the squared weights, in closed form.

    Arguments and errors are fit_sgd's; `penalties` are for the mean of the squares, the bias has none.
    """

    def fit(values: Doubles, found: Indices, swept: Sequence[float]) -> list[Probe]:
        standard = Standard.of(values)
        rows = standard(values)
        weights, bias = least_squares(rows, signed(found, classes), [penalty * len(rows) for penalty in swept])
        return [Probe(standard, each, bias) for each in weights]

    def loss(logits: Doubles, found: Indices) -> float:
        return float(np.mean((logits - signed(found, classes)) ** 2))

    return _swept(fit, loss, features, targets, classes, "penalty", penalties, {"solver": "closed form"}, sources)


def fit_logistic(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    sources: Sources | None = None,
) -> Chosen:
    """Multinomial logistic regression by L-BFGS in float64, to convergence (scikit-learn).

    Arguments and errors are fit_sgd's; a penalty is for the mean of the losses: scikit-learn's C is 1 / (penalty n).
    The sweep goes from strong to weak, and ends where the validation loss rises: weaker ones take longest.
    """
    # Each fit begins where the one before has ended, which saves time, and decides nothing: there is one minimum.
    model = LogisticRegression(tol=1e-8, max_iter=MOST_ITERATIONS, warm_start=True)

    def fit(values: Doubles, found: Indices, swept: Sequence[float]) -> Iterator[Probe]:
        standard = Standard.of(values)
        rows = standard(values)
        for penalty in swept:
            # Small products lose most of their time where two threads of a BLAS wait for each other.
            with threadpool_limits(1, "blas"):
                model.set_params(C=1.0 / (penalty * len(rows))).fit(rows, found)
            yield Probe(standard, *_columns(model.coef_, model.intercept_))

    named, swept = {"solver": "L-BFGS"}, sorted(penalties, reverse=True)
    return _swept(fit, cross_entropy, features, targets, classes, "penalty", swept, named, sources, TOO_MUCH)


def cross_entropy(logits: Doubles, targets: Indices) -> float:
    """The mean of -log p of the right class, in nats."""
    return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(targets)), targets]))


def _swept(
    fit: Fit,
    loss: Loss,
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: int,
    setting: str,
    swept: Sequence[float],
    named: Mapping[str, Any],
    sources: Sources | None,
    too_much: float = np.inf,
) -> Chosen:
    values, found = check_training(features, targets, classes)
    validation = held_back(found, sources)
    rest = np.setdiff1d(np.arange(len(found)), validation)
    tried: list[Probe] = []
    losses: list[float] = []
    for probe in fit(values[rest], found[rest], swept):
        tried.append(probe)
        losses.append(loss(probe.logits(values[validation]), found[validation]))
        if losses[-1] > too_much * min(losses):
            break
    if not np.isfinite(losses).any():
        raise ValueError(f"the probe diverges with every {setting} of {list(swept)}; give smaller ones")
    best = int(np.nanargmin(losses))
    settings = {**named, setting: swept[best], "validation_images": len(validation)}
    whole = dataclasses.replace(next(iter(fit(values, found, [swept[best]]))), settings=settings)
    return Chosen(whole, dataclasses.replace(tried[best], settings=settings), validation)


def _descend(
    rows: Doubles, targets: Indices, classes: int, epochs: int, rates: Sequence[float], seed: int
) -> npt.NDArray[np.float64]:
    """Weights and, as the last row, bias for each learning rate: float64 [s, D + 1, k]."""
    size = len(rows)
    batch = min(BATCH, size)
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(size) for _ in range(epochs)])
    order = order[: len(order) // batch * batch].reshape(-1, batch)
    inputs = jnp.asarray(np.concatenate([rows, np.ones((size, 1))], axis=1), jnp.float32)
    labels = jnp.asarray(targets)
    schedule = optax.cosine_decay_schedule(1.0, len(order))

    def loss(weights: jax.Array, places: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(inputs[places] @ weights, labels[places]).mean()

    def train(rate: jax.Array) -> jax.Array:
        optimizer = optax.sgd(lambda count: rate * schedule(count), momentum=MOMENTUM)

        def step(carry: tuple[jax.Array, Any], places: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
            weights, state = carry
            updates, state = optimizer.update(jax.grad(loss)(weights, places), state)
            return (optax.apply_updates(weights, updates), state), None

        start = jnp.zeros((inputs.shape[1], classes), jnp.float32)
        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.asarray(order))[0][0]

    return np.asarray(jax.jit(jax.vmap(train))(jnp.asarray(rates, jnp.float32)), np.float64)


def _columns(coefficients: Doubles, intercepts: Doubles) -> tuple[Doubles, Doubles]:
    """scikit-learn's as [D, k] and [k]; of two classes it has one row, the second's logit where the first's is 0."""
    if len(coefficients) == 1:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return coefficients.T.copy(), intercepts.copy()
