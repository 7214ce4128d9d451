"""A profiler's trace of some steps of a run, for xprof or Perfetto.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from pathlib import Path
from typing import Self

import jax

FOLDER = "profile"


class ProfileWindow:
    """Traces the steps first..last of a run, both included, into a folder; none where there is no window.

    A run that begins inside the window traces the rest of it.
    """

    def __init__(self, window: tuple[int, int] | None, workdir: Path) -> None:
        self._window, self._folder = window, workdir / FOLDER
        self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracing:
            self._stop()

    def before(self, step: int) -> None:
        """Is told of a step before it is taken."""
        if self._window and not self._tracing and self._window[0] <= step <= self._window[1]:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int) -> None:
        """Is told of a step once it is taken."""
        if self._tracing and self._window and step == self._window[1]:
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        print(f"{self._folder}: the profiler's trace; open it with xprof, or its .trace.json.gz at ui.perfetto.dev")
