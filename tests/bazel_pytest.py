"""Runs one test file under Bazel with the settings of pyproject.toml."""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    tests = Path(__file__).parent
    settings = [
        f"--rootdir={tests.parent}",
        f"--config-file={tests.parent / 'pyproject.toml'}",
        "-p",
        "no:cacheprovider",
    ]
    sys.exit(pytest.main([*settings, *(str(tests / name) for name in sys.argv[1:])]))
