"""What the client programs show people: progress on stderr, and bars beside numbers.

At the end of the walk, after the client. Nothing of it goes to a file or a pipe: progress is shown to a terminal alone,
and colours follow NO_COLOR (https://no-color.org), as rich does by itself.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
import rich.progress
import rich.text

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL, _PLAIN = "█", "#"


def bar(share: float, width: int, encoding: str = "utf-8") -> str:
    """A bar of at most `width` characters; an encoding without block characters gets plain ones.

    Args:
        share: how much of the width, from 0 to 1; what is outside counts as the nearest of them.
        width: in characters.
        encoding: of where it is printed to, as rich.console.Console.encoding.
    """
    share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    if not encoding.lower().startswith("utf"):
        return _PLAIN * round(share * width)
    full, rest = divmod(round(share * width * 8), 8)
    return _FULL * full + (_EIGHTHS[rest] if rest else "")


@contextmanager
def progress(total: int | None, unit: str = "images", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows how far work is and how fast, on stderr where that is a terminal, until the end of the block.

    Args:
        total: of what is to be done.
        unit: what is counted.
        done: how many of them were done before; they do not count for the speed.

    Yields:
        What is to be called with how many more are done.
    """
    console = rich.console.Console(stderr=True)
    columns = (
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit),
        _Speed(unit),
        rich.progress.TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with rich.progress.Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        task = shown.add_task(unit, total=total, completed=done)
        yield lambda count: shown.advance(task, count)


class _Speed(rich.progress.ProgressColumn):
    """Units a second, lately."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich.progress.Task) -> rich.text.Text:
        """See ProgressColumn."""
        return rich.text.Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed is not None else "")
