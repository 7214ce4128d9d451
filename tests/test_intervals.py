import numpy as np
import pytest

from train.evaluators.intervals import bootstrap, bootstrap_of, paired_bootstrap, wilson, with_spread


def test_wilsons_interval_is_that_of_a_published_case() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


@pytest.mark.parametrize("examples", [1, 20, 29])
def test_wilsons_interval_has_a_width_at_the_ends_and_stays_within_them(examples: int) -> None:
    low, high = wilson(0, examples)
    assert low == 0.0
    # At the end it is z^2 / (n + z^2), 0.1611 for 20.
    assert high == pytest.approx(3.8415 / (examples + 3.8415), abs=1e-4)
    assert wilson(examples, examples) == pytest.approx((1 - high, 1.0))
    assert wilson(examples, examples)[1] == 1.0


def test_a_wider_level_has_a_wider_interval_and_more_examples_a_narrower_one() -> None:
    assert np.diff(wilson(5, 10, 0.99)) > np.diff(wilson(5, 10)) > np.diff(wilson(50, 100))


@pytest.mark.parametrize(("successes", "examples"), [(0, 0), (3, 2), (-1, 5)])
def test_what_is_no_share_is_told(successes: int, examples: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {examples} is no share"):
        wilson(successes, examples)


def test_the_bootstrap_of_a_mean_is_about_the_normal_interval() -> None:
    scores = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap(scores)
    half = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.015)
    assert bootstrap(scores) == (low, high)
    assert bootstrap(scores, seed=1) != (low, high)


def test_chunks_make_no_difference_but_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(3).random(50)
    whole = bootstrap(scores)
    monkeypatch.setattr("train.evaluators.intervals.CHUNK", 130)
    assert bootstrap(scores) == whole


def test_equal_scores_have_an_interval_of_no_width() -> None:
    assert bootstrap(np.full(7, 0.25)) == pytest.approx((0.25, 0.25))
    first = np.random.default_rng(0).random(30)
    assert paired_bootstrap(first, first) == (0.0, 0.0, 0.0)


def test_pairs_tell_apart_what_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(size=200)  # what both find hard
    first, second = hard + 0.1 + 0.05 * generator.normal(size=200), hard
    difference, low, high = paired_bootstrap(first, second)
    assert difference == pytest.approx(first.mean() - second.mean())
    assert 0 < low < difference < high
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / 200**0.5, rel=0.1)
    assert bootstrap(first)[0] < bootstrap(second)[1]
    assert paired_bootstrap(second, first)[0] == -difference


def test_scores_of_other_examples_are_told() -> None:
    with pytest.raises(ValueError, match="expected the same examples"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="one example or more"):
        bootstrap([])


def test_an_interval_with_the_spread_over_seeds_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        first, second = rng.normal(0.0, 0.03, 3), rng.normal(0.1, 0.03, 5)
        scores = rng.normal(0.0, 0.4, 400)  # of each image, the same for every seed
        apart = second.mean() - first.mean()
        half = 1.96 * scores.std(ddof=1) / 20
        value = apart + scores.mean()
        spreads = [(float(each.std(ddof=1)), len(each)) for each in (first, second)]
        low, high = with_spread(value, (value - half, value + half), spreads)
        held.append(low <= 0.1 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
    assert with_spread(0.2, (0.1, 0.4), [(0.0, 3), (0.0, 3)]) == (0.1, 0.4)


def test_the_bootstrap_of_a_statistic_agrees_with_that_of_its_mean() -> None:
    scores = np.random.default_rng(1).random(100)
    found = bootstrap_of(lambda places: float(scores[places].mean()), 100, draws=2000)
    assert found == pytest.approx(bootstrap(scores), abs=0.01)


def test_resamples_without_a_value_are_left_out() -> None:
    assert bootstrap_of(lambda places: 1.0 if 0 in places else float("nan"), 3) == (1.0, 1.0)
    with pytest.raises(ValueError, match="finite on no resample"):
        bootstrap_of(lambda _: float("nan"), 3)
