import threading

from serving.thread_pool import full_pool


def test_all_threads_are_there_before_there_is_work():
    with full_pool(5, "burst"):
        assert sum(thread.name.startswith("burst") for thread in threading.enumerate()) == 5
