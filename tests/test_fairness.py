import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference
from scipy.optimize import linprog

from train.evaluators import fairness
from train.evaluators.fairness import by_group, correctness, fit_debiased, gap, gap_interval

GROUPS = ("a", "b", "c")


def biased(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that favour b and despise c, outcomes, and subgroups."""
    random = np.random.default_rng(seed)
    groups = random.choice(GROUPS, n, p=(0.5, 0.3, 0.2))
    positive = random.random(n) < np.select([groups == "b", groups == "c"], [0.6, 0.3], 0.45)
    scores = positive + random.normal(size=n) + np.select([groups == "b", groups == "c"], [0.8, -0.8], 0.0)
    return scores, positive, groups


def best_accuracy(scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, level: float) -> float:
    """By linear programming over lotteries of thresholds: weights of every threshold of every subgroup, and a rate."""
    gains, rates, owners = [], [], []
    for owner, name in enumerate(GROUPS):
        given, wanted = scores[groups == name], positive[groups == name]
        for threshold in (np.inf, *np.unique(given)):
            taken = given >= threshold
            gains.append((taken == wanted).sum() / len(scores))
            rates.append(taken.mean())
            owners.append(owner)
    one = np.eye(len(GROUPS))[owners].T  # the weights of a subgroup sum to 1
    share = one * np.asarray(rates)
    least = np.full((len(GROUPS), 1), 1.0)  # the lowest rate of all is the last variable
    bounds = np.concatenate([np.hstack([share, -least]), np.hstack([-share, least])])
    limits = np.concatenate([np.full(len(GROUPS), level), np.zeros(len(GROUPS))])
    found = linprog(
        -np.asarray([*gains, 0.0]),
        A_ub=bounds,
        b_ub=limits,
        A_eq=np.hstack([one, 0 * least]),
        b_eq=np.ones(len(GROUPS)),
    )
    assert found.success
    return -found.fun


def test_means_and_gap_by_hand():
    right, groups = [1, 0, 1, 1, 0, 0], ["b", "b", "a", "a", "c", "c"]
    assert by_group(right, groups) == {"a": (1.0, 2), "b": (0.5, 2), "c": (0.0, 2)}
    assert gap(right, groups) == 1.0
    assert gap([1, 0, 1, 0], ["a", "a", "b", "b"]) == 0.0


def test_the_gap_of_decisions_is_fairlearns_demographic_parity_difference():
    scores, positive, groups = biased()
    decisions = scores > 0.5
    expected = demographic_parity_difference(positive, decisions, sensitive_features=groups)
    assert gap(decisions, groups) == pytest.approx(expected)


def test_interval_of_the_gap_holds_it_where_subgroups_differ():
    scores, _, groups = biased(2000)
    low, high = gap_interval(scores > 0.5, groups, 0)
    assert low < gap(scores > 0.5, groups) < high
    assert gap_interval(scores > 0.5, groups, 0) == (low, high)
    assert gap_interval([1, 1, 0, 0], ["a", "a", "b", "b"], 0) == (1, 1)


@pytest.mark.parametrize("level", [0.0, 0.05, 0.2, 1.0])
def test_debiasing_is_the_best_that_the_level_allows(level):
    scores, positive, groups = biased()
    decisions = fit_debiased(scores, positive, groups, level).decide(scores, groups)
    assert gap(decisions, groups) <= level + 1e-9
    assert ((decisions >= 0) & (decisions <= 1)).all()
    best = best_accuracy(scores, positive, groups, level)
    # fairlearn tries rates that lie a thousandth apart, and accuracy changes by no more than they do.
    assert best - 2e-3 <= correctness(decisions, positive).mean() <= best + 1e-9


def test_accuracy_rises_with_the_level_and_ends_at_the_best_thresholds():
    scores, positive, groups = biased()
    found = [
        correctness(fit_debiased(scores, positive, groups, level).decide(scores, groups), positive).mean()
        for level in fairness.LEVELS
    ]
    assert (np.diff(found) >= -1e-9).all()
    assert found[0] < found[-1]
    # Without a limit each subgroup has its own best threshold.
    free = sum(
        max(((given >= t) == wanted).sum() for t in (*given, np.inf))
        for given, wanted in ((scores[groups == name], positive[groups == name]) for name in GROUPS)
    )
    assert found[-1] == pytest.approx(free / len(scores), abs=2e-3)


def test_a_perfect_score_stays_perfect_where_parity_allows_it():
    positive = np.tile([True, False], 20)
    groups = np.repeat(["a", "b"], 20)
    decisions = fit_debiased(positive.astype(float), positive, groups, 0.0).decide(positive.astype(float), groups)
    np.testing.assert_allclose(decisions, positive, atol=1e-9)


def test_parity_costs_what_it_must_where_outcomes_differ():
    # Nine of ten against one of ten: one rate for both makes 8 of 20 decisions wrong whatever the scores are.
    positive = np.concatenate([np.arange(10) < 9, np.arange(10) < 1])
    groups = np.repeat(["a", "b"], 10)
    decisions = fit_debiased(positive.astype(float), positive, groups, 0.0).decide(positive.astype(float), groups)
    assert correctness(decisions, positive).mean() == pytest.approx(0.6, abs=1e-9)


def test_noise_that_moves_no_image_past_another_changes_nothing():
    scores, positive, groups = biased()
    noisy = scores + 1e-7 * np.random.default_rng(1).normal(size=len(scores))
    one, two = (fit_debiased(given, positive, groups, 0.1).decide(given, groups) for given in (scores, noisy))
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_correctness_of_lotteries():
    np.testing.assert_allclose(correctness([1, 0, 0.25, 0.25], [True, True, True, False]), [1, 0, 0.25, 0.75])


def test_what_cannot_be_judged_is_refused():
    scores, positive, groups = biased()
    with pytest.raises(ValueError, match="two subgroups or more"):
        gap([1, 0], ["a", "a"])
    with pytest.raises(ValueError, match=r"expected \[n\] of both"):
        by_group([1, 0], ["a"])
    with pytest.raises(ValueError, match="not finite"):
        gap([1, np.nan], ["a", "b"])
    with pytest.raises(ValueError, match="expected 0 or more"):
        fit_debiased(scores, positive, groups, -0.1)
    with pytest.raises(ValueError, match="subgroup 'c' are negative"):
        fit_debiased(scores, positive & (groups != "c"), groups, 0.1)
    with pytest.raises(ValueError, match="no threshold was fitted for z"):
        fit_debiased(scores, positive, groups, 0.1).decide([0.5], ["z"])
