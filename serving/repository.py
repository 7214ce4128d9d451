"""The directory of a model on disk: which versions it holds, looked at again and again.

Between SavedModel and server: the exporter renames a finished version into `<base path>/<number>/`, and this module is
how the server comes to know of it. Standard library only.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

_MAX_VERSION = 2**63 - 1

logger = logging.getLogger(__name__)

Versions = Mapping[int, Path]


def versions(base_path: Path) -> dict[int, Path]:
    """The versions below a base path: every child whose name is a number from 0 to 2^63 - 1; "007" is version 7.

    A child need not be a directory: one that is a file is a version too, and its load fails.

    Raises:
        OSError: the base path cannot be listed.
    """
    found: dict[int, Path] = {}
    for child in sorted(base_path.iterdir()):
        if child.name.isascii() and child.name.isdigit() and int(child.name) <= _MAX_VERSION:
            found[int(child.name)] = child
    return found


def latest(found: Versions) -> dict[int, Path]:
    """The version to serve: the one with the highest number, or none."""
    return {max(found): found[max(found)]} if found else {}


def watch(
    name: str,
    base_path: Path,
    aspire: Callable[[str, Versions], None],
    *,
    interval: float,
    stop: threading.Event,
) -> None:
    """Tells `aspire` which versions to serve, at once and then every `interval` seconds, until `stop` is set.

    A base path that cannot be listed changes nothing, so a file system that is away for a moment unloads no model. One
    that holds no version is told as an empty mapping.

    Args:
        name: the model's name.
        base_path: the directory that holds its versions.
        aspire: called with the name and the versions to serve; it may take as long as their load takes.
        interval: seconds between two looks; 0 looks once.
        stop: ends the watch.
    """
    while not stop.is_set():
        try:
            found = versions(base_path)
        except OSError as error:
            logger.error("Could not find base path %s for servable %s with error %s", base_path, name, error)
        else:
            if not found:
                logger.warning(
                    "No versions of servable %s found under base path %s. "
                    "Did you forget to name your leaf directory as a number (eg. '/1/')?",
                    name,
                    base_path,
                )
            aspire(name, latest(found))
        if not interval or stop.wait(interval):
            return
