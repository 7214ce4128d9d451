"""Under which name a model is counted: its own, or one that it shares with whatever else callers ask for.

Part of monitoring.py and rates.py, beside the way SavedModel -> server -> client. A caller can ask for any number of
models that are not there. Each name would be a series for good, and names that are made up must not take the place of
a model's.
"""

import threading
from collections.abc import Callable, Collection

from serving.call import LONGEST, Call

OTHER = "(other)"
_STRANGERS = 20  # names that no model has, but are shown: a caller's slip is to be seen


class ModelNames:
    """The names that are counted by themselves: those of models, and a few that are asked for in vain."""

    def __init__(self) -> None:
        self._served: Callable[[], Collection[str]] = tuple
        self._own = {""}  # a request that names none
        self._strangers = 0
        self._lock = threading.Lock()

    def follow(self, served: Callable[[], Collection[str]]) -> None:
        """Counts by themselves the models that `served` returns, whenever it does."""
        self._served = served

    def of(self, call: Call) -> str:
        """The name under which a call is counted. A call that was refused adds no name."""
        name = call.model
        if name in self._own:
            return name
        served = name in self._served()
        with self._lock:
            if name in self._own:
                return name
            if not served:
                if call.refused or len(name) > LONGEST or self._strangers >= _STRANGERS:
                    return OTHER
                self._strangers += 1
            self._own.add(name)
        return name
