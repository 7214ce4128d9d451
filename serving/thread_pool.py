"""A pool of threads that are all there from the start.

Under the wires of the server on the way SavedModel -> server -> client. A pool of Python's starts its threads as it
needs them, in the burst that needs them most; and an operator who watches a process could not tell that from a leak.
"""

import threading
from concurrent import futures


def full_pool(size: int, name: str) -> futures.ThreadPoolExecutor:
    """A pool of `size` threads, named after it."""
    pool = futures.ThreadPoolExecutor(size, thread_name_prefix=name)
    together = threading.Barrier(size)  # none of them is free for another's turn before all have one
    for started in [pool.submit(together.wait) for _ in range(size)]:
        started.result()
    return pool
