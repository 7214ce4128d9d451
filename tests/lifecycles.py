"""A life cycle's versions brought about step by step, and the threads of models ended, for the tests."""

import threading

_THREADS = ("manage", "configuration")


def aspire(lifecycle, name, versions):
    """Wants these versions, and manages until that is done or has failed; no thread may manage meanwhile."""
    lifecycle.want(name, versions)
    while lifecycle.step():
        pass


def end(stop):
    """Ends the threads of Models that change something; the models answer on."""
    stop.set()
    for thread in threading.enumerate():
        if thread.name in _THREADS:
            thread.join(timeout=60)
            assert not thread.is_alive()
