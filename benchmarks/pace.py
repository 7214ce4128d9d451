"""At what pace requests are sent: each behind the answer before it, or when its time comes whatever is under way.

For load.py and in_process.py, beside the walk SavedModel -> server -> client.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

_PATIENCE = 60.0  # seconds, for what is still under way at the end


def closed_loop(callers: Sequence[Callable[[], bool]], seconds: float) -> dict[str, Any]:
    """Every caller calls at least once, and again as soon as it has its answer; all have their last one.

    Args:
        callers: functions that make a request each and wait; False is a failure.
        seconds: how long.

    Returns:
        calls_per_second, failed, and latencies, a list of seconds.
    """
    latencies: list[list[float]] = [[] for _ in callers]
    failed = [0] * len(callers)
    begin = time.perf_counter()
    end = begin + seconds

    def run(number: int) -> None:
        now = begin  # so that each calls once, however late its thread starts
        while now < end:
            start = time.perf_counter()
            answered = callers[number]()
            now = time.perf_counter()
            if answered:
                latencies[number].append(now - start)
            else:
                failed[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(callers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    found = [latency for each in latencies for latency in each]
    return {"calls_per_second": len(found) / elapsed, "failed": sum(failed), "latencies": found}


def open_loop(begin: Callable[[], "futures.Future[Any]"], rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Sends by a Poisson process, whether or not the requests before have been answered.

    A latency counts from the moment at which the request was due, not from when the sender came to it, so that a
    server which holds up the sender does not hide what those behind it waited (coordinated omission).

    Args:
        begin: sends a request, and returns at once.
        rate: requests a second.
        seconds: how long.
        seed: of the moments.

    Returns:
        sent, failed, and latencies, a list of seconds.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=max(1, round(rate * seconds)))
    latencies: list[float] = []
    failed: list[BaseException] = []
    calls = []
    start = time.perf_counter()
    for due in start + np.cumsum(gaps):
        time.sleep(max(0.0, due - time.perf_counter()))

        def ended(call: "futures.Future[Any]", due: float = due) -> None:
            latency = time.perf_counter() - due
            if call.exception() is None:
                latencies.append(latency)
            else:
                failed.append(call.exception())

        calls.append(begin())
        calls[-1].add_done_callback(ended)
    for call in calls:
        call.exception(timeout=_PATIENCE)
    return {"sent": len(calls), "failed": len(failed), "latencies": latencies}
