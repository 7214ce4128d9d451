"""The import rule: vit22b/ imports no stage, and no stage imports another."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = {"train", "export", "serving", "clients"}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("folder", ["vit22b", *sorted(STAGES)])
def test_a_folder_imports_no_stage_but_itself(folder):
    files = sorted((ROOT / folder).glob("*.py"))
    assert files
    for file in files:
        assert not set(imported(file)) & (STAGES - {folder} | {"tests", "benchmarks"}), file
