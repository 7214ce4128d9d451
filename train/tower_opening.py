"""Opens what is judged, or what teaches, by the name that a user gives it.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import re
from pathlib import Path

from train.tower import Tower

_EXPECTED = "expected checkpoint:DIR, a work directory or a step in it, or grpc://HOST:PORT/MODEL[/VERSION]"
_SERVED = re.compile(r"grpc://(?P<address>[^/]+:\d+)/(?P<model>[^/]+)(?:/(?P<version>\d+))?")


def open_tower(source: str) -> Tower:
    """Opens a checkpoint or a served model.

    Args:
        source: "checkpoint:DIR", the path of a checkpoint alone, or "grpc://HOST:PORT/MODEL[/VERSION]".

    Raises:
        ValueError: it is neither, or no checkpoint of ours.
        VitError: no server answers there, or it serves no model of ours.
    """
    # Each is imported by who needs it: JAX's compiler and TensorFlow take seconds, and a served tower needs neither.
    if source.startswith("grpc:"):
        found = _SERVED.fullmatch(source)
        if not found:
            raise ValueError(f"{source!r} is no served model; {_EXPECTED}")
        from train.served_tower import ServedTower

        version = found["version"]
        return ServedTower(found["address"], found["model"], None if version is None else int(version))
    kind, colon, rest = source.partition(":")
    if colon and kind != "checkpoint" and not Path(source).exists():
        raise ValueError(f"{source!r}: {kind!r} is no kind of source; {_EXPECTED}")
    path = rest if kind == "checkpoint" else source
    if not path:
        raise ValueError(f"{source!r} names no folder; {_EXPECTED}")
    from train.checkpoint_tower import CheckpointTower

    return CheckpointTower(Path(path))
