"""Judges a model as the paper judges ViT-22B: every protocol, on every set, one report.

    .venv/bin/python train/evaluate.py --source checkpoint:build/eval/lit --data build/eval/sets --output build/eval
    .venv/bin/python train/evaluate.py --source grpc://localhost:8500/mine --data build/eval/sets --output build/served
    .venv/bin/python train/evaluate.py --compare build/eval/report.json build/served/report.json --output build/compared

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A checkpoint and the model
that is served of it give the same numbers, so that two reports show whether anything was lost in between. In --output:
report.json, report.html; of a comparison compare.json, compare.html. docs/evaluation.md has every protocol's definition.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import Progress

from train.evaluation_sets.reading import SET_FILE, EvaluationSet, read_set
from train.kept import Kept
from train.suite.context import Context, Effort
from train.suite.outcome import CannotRun, Plot, Row
from train.suite.protocol import Protocol
from train.tower_opening import open_tower
from vit22b import program
from vit22b.errors import VitError
