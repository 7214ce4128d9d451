"""The rates of a run: examples and tokens a second, MFU, the share of the time that went by waiting for input.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import contextlib
import time
from collections.abc import Iterator

from jax.sharding import Mesh

from train.task import Work
from vit22b.chips import chip_of


class Clock:
    """Rates since the last reading; as a context manager it counts the time inside as waiting for input."""

    def __init__(self, batch: int, work: Work | None, mesh: Mesh) -> None:
        """Starts the clock.

        Args:
            batch: examples a step.
            work: what an example costs; None for no rates of tokens and FLOPs.
            mesh: what computes them; the MFU counts against its chips' peak, and is left out where that is not known.
        """
        self._batch, self._work, self._chips = batch, work, mesh.size
        self._chip = chip_of(mesh.devices.flat[0])
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._steps = 0
        self._waited = 0.0

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._waited += time.perf_counter() - self._entered

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What is done inside takes no time: an evaluation is no step."""
        begin = time.perf_counter()
        yield
        self._since += time.perf_counter() - begin

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The rates since the last reading, for a log."""
        seconds = time.perf_counter() - self._since
        rate = self._steps * self._batch / seconds
        values = {"images_per_second": round(rate, 1), "input_wait": round(self._waited / seconds, 4)}
        if self._work is not None:
            values["tokens_per_second_per_chip"] = round(rate * self._work.tokens / self._chips, 1)
            if self._chip is not None:
                values["mfu"] = round(rate * self._work.flops / self._chips / self._chip.peak_flops, 4)
        self._reset()
        return values
