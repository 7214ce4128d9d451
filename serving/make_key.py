"""Makes an API key for the embedded server: the key for its user, its line for the server's file.

    .venv/bin/python serving/make_key.py alice --file keys.txt
    .venv/bin/python serving/model_server.py --api_keys_file=keys.txt ...

The key is printed once and stored nowhere. Without --file the line is printed below it.
"""

import argparse
import os
import sys
from pathlib import Path

from serving import keys


def main() -> int:
    """Prints a key; returns the exit code."""
    parser = argparse.ArgumentParser(description="Makes an API key for the embedded server.", allow_abbrev=False)
    parser.add_argument("name", help="whose key it is; the server's logs show it")
    parser.add_argument("--file", type=Path, help="the server's file of keys, to which its line is added")
    arguments = parser.parse_args()
    key = keys.make_key()
    try:
        line = keys.line(arguments.name, key)
        if arguments.file is not None:
            _append(arguments.file, line)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        print(f"make_key.py: {error}", file=sys.stderr)
        return 1
    print(key if arguments.file is not None else f"{key}\n{line}")
    return 0


def _append(path: Path, line: str) -> None:
    """Adds a line, below whatever the last one is; a new file is its owner's alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        content = file.read()
        file.write(("" if not content or content.endswith(b"\n") else "\n").encode() + f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
