import pytest

from train.run import Run


def run(**changes):
    return Run(**{"workdir": None, "steps": 1, "batch": 1} | changes)


@pytest.mark.parametrize("name", ["steps", "batch", "log_every", "save_every", "keep", "eval_every", "max_skipped"])
def test_a_run_that_cannot_be_is_named(name):
    with pytest.raises(ValueError, match=f"--{name} is 0; expected 1 or more"):
        run(**{name: 0})


@pytest.mark.parametrize("name", ["signals_every", "keep_best"])
def test_a_number_below_0_is_named(name):
    with pytest.raises(ValueError, match=f"--{name} is -1; expected 0 or more"):
        run(**{name: -1})


def test_intervals_follow_those_of_logs_and_checkpoints():
    assert (run(save_every=7).evaluation_interval, run(log_every=5).signals_interval) == (7, 5)
    assert (run(save_every=8, eval_every=4).evaluation_interval, run(signals_every=0).signals_interval) == (4, 0)


def test_the_best_need_a_figure_for_every_checkpoint():
    run(save_every=8, eval_every=4, keep_best=1)
    with pytest.raises(ValueError, match="--eval_every 3 is not a divisor of --save_every 8; leave it out, or take 8"):
        run(save_every=8, eval_every=3, keep_best=1)


@pytest.mark.parametrize("text", ["10", "10-15", "15:10", "0:3", ":", "a:b"])
def test_a_window_that_is_none_is_shown(text):
    with pytest.raises(ValueError, match=f"--profile is '{text}'; expected FIRST:LAST"):
        run(profile=text)


def test_a_window_beyond_the_run_is_refused():
    with pytest.raises(ValueError, match="--profile is 10:15, beyond the run's --steps 14; name steps that it has"):
        run(profile="10:15", steps=14)


def test_a_window_is_two_steps():
    assert run(profile="10:15", steps=15).profile_window == (10, 15)
    assert run().profile_window is None
