import threading
import time

from serving.slots import Slots


class Context:
    """As much of a gRPC context as is needed: callbacks run when it ends, and are not taken afterwards."""

    def __init__(self):
        self._callbacks = []

    def add_callback(self, callback):
        if self._callbacks is None:
            return False
        self._callbacks.append(callback)
        return True

    def end(self):
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks:
            callback()


def _end(_slots, context):
    context.end()


def test_a_slot_is_free_when_the_work_is_done_and_the_call_has_ended_in_either_order():
    for order in ((Slots.give_back, _end), (_end, Slots.give_back)):
        slots, context = Slots(1), Context()
        assert slots.enter(context)
        assert (slots.take(), slots.take()) == (True, False)
        for step in order:
            assert slots.free == 0
            step(slots, context)
        assert slots.free == 1


def test_when_it_is_closed_no_call_comes_in_and_the_last_one_is_waited_for():
    slots, context = Slots(1), Context()
    assert slots.enter(context)
    slots.close()
    assert not slots.enter(Context())
    slots.wait(time.monotonic())  # its time is up
    waiting = threading.Thread(target=slots.wait, args=[time.monotonic() + 60], daemon=True)
    waiting.start()
    context.end()
    waiting.join(30)
    assert not waiting.is_alive()
