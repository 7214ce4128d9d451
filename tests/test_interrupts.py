import os
import signal
import threading

import pytest

from vit22b.interrupts import held_back


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_what_is_done_within_is_done_whole():
    done = []

    def work() -> None:
        with held_back():
            interrupt()
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_no_interrupt_is_none():
    with held_back():
        pass
    with pytest.raises(RuntimeError, match="of the work"), held_back():
        raise RuntimeError("of the work")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_stays():
    came = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        with held_back():
            interrupt()
            assert came == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    found = []

    def work() -> None:
        with held_back():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
