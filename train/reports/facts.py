"""What a report says of the model, the data and the surroundings, found out.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

from train.evaluation_sets.reading import SET_FILE, EvaluationSet
from train.reports.document import ModelFacts, NotRun, ProtocolFacts, Report, SetFacts
from train.suite.outcome import Plot, Row
from train.suite.protocol import Protocol
from train.suite.running import Ran
from train.tower import Tower
from train.training_compute import training_flops
from vit22b import model
from vit22b.config import size_name
from vit22b.description import git_revision
from vit22b.tree import parameter_count

PACKAGES = ("fairlearn", "flax", "jax", "jaxlib", "numpy", "optax", "scikit-learn", "scipy", "tensorflow", "vit22b")
# What of set.json is said about a set, and decides no number.
_SAID = ("origin", "makers")


def model_facts(tower: Tower) -> ModelFacts:
    """What is known of the model behind a tower."""
    image = tower.config.image
    _, shapes = model.abstract(tower.config)
    return ModelFacts(
        source=tower.source,
        space_id=tower.space_id,
        size=size_name(image),
        parameters=parameter_count(shapes),
        image_parameters=parameter_count({"image": shapes["image"]}),
        resolution=tower.preprocess.resolution,
        patch=image.patch,
        step=tower.step,
        training_flops=None if tower.checkpoint is None else training_flops(tower.checkpoint),
        head=tower.head,
    )


def set_facts(described: EvaluationSet) -> SetFacts:
    """What a set is, with the digest of its contents."""
    return SetFacts(described.name, described.kind, described.origin, described.synthetic, contents_digest(described))


def contents_digest(described: EvaluationSet) -> str:
    """16 hex digits of a SHA-256 over every file of a set by name, and over set.json but for what decides no number."""
    values = json.loads((described.folder / SET_FILE).read_text(encoding="utf-8"))
    decisive = {name: value for name, value in values.items() if name not in _SAID}
    return _digest(described.folder, json.dumps(decisive, sort_keys=True).encode())


def images_digest(folder: Path) -> str:
    """16 hex digits of a SHA-256 over every file of a folder by name."""
    return _digest(folder, b"")


def _digest(folder: Path, said: bytes) -> str:
    """Hidden files and set.json are left out."""
    digest = hashlib.sha256(said)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SET_FILE and not any(part.startswith(".") for part in name.split("/")):
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def protocol_facts(protocol: Protocol) -> ProtocolFacts:
    """What a protocol is, without what runs it."""
    return ProtocolFacts(**{field.name: getattr(protocol, field.name) for field in dataclasses.fields(ProtocolFacts)})


def package_versions() -> dict[str, str]:
    """The versions of the packages that decide the numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def make_report(model: ModelFacts, ran: Sequence[Ran]) -> Report:
    """The report of what ran.

    Args:
        model: that was judged; see model_facts.
        ran: every task, in the order of the report.
    """
    protocols = {each.task.protocol.id: each.task.protocol for each in ran}
    sets = {each.task.data.name: each.task.data for each in ran}
    seconds = dict.fromkeys(protocols, 0.0)
    for each in ran:
        seconds[each.task.protocol.id] += each.seconds
    outcomes = [outcome for each in ran for outcome in each.outcomes]
    return Report(
        model=model,
        date=datetime.date.today().isoformat(),
        git_revision=git_revision(),
        packages=package_versions(),
        sets=tuple(map(set_facts, sets.values())),
        protocols=tuple(map(protocol_facts, protocols.values())),
        rows=tuple(each for each in outcomes if isinstance(each, Row)),
        plots=tuple(each for each in outcomes if isinstance(each, Plot)),
        not_run=tuple(
            NotRun(each.task.protocol.id, each.task.data.name, reason)
            for each in ran
            for reason in (each.cannot, each.failed)
            if reason is not None
        ),
        seconds={name: round(value, 1) for name, value in seconds.items()},
    )
