"""A process that follows orders, a line of JSON each, and says what came of them.

For benchmarks/serving.py: who takes turns on a machine has to be there already, and to be idle in the others' turns.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from benchmarks.server_process import ROOT, ServerError


class Orders:
    """A process of this folder that follows orders, a line of JSON each, until the context ends."""

    def __init__(self, *command: str):
        """Starts `python -m command`, which calls `follow`, and waits until it does.

        Raises:
            ServerError: it has ended before.
        """
        # As a module: a program's own folder comes first on sys.path, and here that has a serving.py of its own.
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def order(self, **order: Any) -> dict[str, Any]:
        """What came of an order.

        Raises:
            ServerError: the process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerError(f"{' '.join(self._process.args)} ended with code {self._process.wait()}")
        return json.loads(line)


def follow(does: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """The other side: says that it is there, and follows orders until there are none.

    Args:
        does: what it can do, by name; an order has its name under "do", and its arguments.
    """
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(does[order.pop("do")](**order)), flush=True)
