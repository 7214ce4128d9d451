"""Waiting for what other threads and processes bring about, for the tests."""

import time


def until(condition):
    """Returns when it holds; fails the test if that takes a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
