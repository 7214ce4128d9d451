"""The load of one version: attempts, the pauses between them, and what a failure becomes.

Within lifecycle.py on the way SavedModel -> [server] -> client.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import tensorflow as tf

from serving.flags import Flags
from serving.servable import Servable
from serving.status import internal, of_file, status_text

logger = logging.getLogger(__name__)

Load = Callable[[str, int, Path], Servable]


@dataclasses.dataclass(frozen=True)
class Retries:
    """How often a load that failed is tried again, after how many seconds, and after which errors it never is."""

    count: int = Flags.max_num_load_retries
    interval: float = Flags.load_retry_interval_micros / 1e6
    vain: tuple[type[tf.errors.OpError], ...] = ()


def executor(threads: int) -> futures.ThreadPoolExecutor | None:
    """Threads for loads, or for unloads; None for no threads of their own."""
    return futures.ThreadPoolExecutor(threads, thread_name_prefix="versions") if threads > 0 else None


def load_with_retries(
    attempt: Callable[[], Servable], description: str, retries: Retries, *given_up: threading.Event
) -> Servable:
    """Loads, and tries again as often as it may.

    Args:
        attempt: one load. Whatever it raises is a failure of this version alone, and becomes a status.
        description: of the version, for the log: {name: m version: 1}.
        retries: what to do when an attempt fails.
        given_up: any of these events ends the pauses, and with them the retries.

    Raises:
        tf.errors.OpError: what the last attempt failed with.
    """
    tries = 1 + max(0, retries.count)
    for number in range(1, tries + 1):
        try:
            return _as_status(attempt, description)
        except tf.errors.OpError as error:
            logger.error("Loading servable: %s failed: %s", description, status_text(error))
            if number == tries or isinstance(error, retries.vain):
                raise
            if not _pause(retries.interval, given_up):
                logger.info("Retrying of Loading servable: %s was cancelled.", description)
                raise
        logger.info("Retrying of Loading servable: %s retry: %d", description, number)
    raise AssertionError("the last attempt returns or raises")


def _as_status(attempt: Callable[[], Servable], description: str) -> Servable:
    """One attempt; whatever goes wrong becomes a status, so that it cannot end the thread that loads."""
    try:
        return attempt()
    except tf.errors.OpError:
        raise
    except OSError as error:
        raise of_file(error) from error
    except Exception as error:
        logger.exception("Loading servable: %s: a defect of the server", description)
        raise internal(f"{type(error).__name__}: {error}") from error


def _pause(seconds: float, given_up: tuple[threading.Event, ...]) -> bool:
    """Waits; False as soon as one of the events is set."""
    end = time.monotonic() + seconds
    while not any(event.is_set() for event in given_up):
        remaining = end - time.monotonic()
        if remaining <= 0:
            return True
        given_up[0].wait(min(remaining, 0.1))
    return False
