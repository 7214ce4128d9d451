"""Out of distribution: classifiers of a set's classes on images from elsewhere, through the label maps of the set.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from train.evaluation_sets.reading import EvaluationSet, Shift
from train.evaluators.features import Doubles
from train.evaluators.label_maps import Judged, LabelMap, find_map, judge
from train.evaluators.out_of_distribution import ReferenceLine, read_line
from train.evaluators.zero_shot import cosines
from train.suite.banks import class_bank
from train.suite.classifiers import head_knows, head_logits
from train.suite.context import Context
from train.suite.outcome import CannotRun, Outcome, Plot, Row
from train.suite.parts import needed, test_part
from train.suite.probes import fitted
from train.suite.protocol import Protocol
from train.suite.rows import Rows
from vit22b.prompts import canonical

SHIFTED = "out-of-distribution/1"
LINE_FILE = "reference_line.json"

Classifier = Callable[[Sequence[Path]], Doubles]  # images to float64 [n, k] for the classes of the set


@dataclasses.dataclass(frozen=True)
class _Tested:
    """A classifier on the set's own test part, and on its shifts so far."""

    name: str
    classifier: Classifier
    rows: list[Row]


def out_of_distribution(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """Every classifier on the test part and on every shift; what cannot be judged is told at the end.

    Raises:
        CannotRun: the probe or a shift lacks what it needs.
        ValueError: a shift, its label map or its reference line is broken.
    """
    problems: list[Exception] = []
    tested = []
    for name, classifier in _classifiers(context, described, problems):
        tested.append(_Tested(name, classifier, []))
    for part in (Shift("test", "test"), *described.shifts):
        try:
            found = list(_judged(described, part, tested))
        except (ValueError, CannotRun) as error:
            kind = CannotRun if isinstance(error, CannotRun) else ValueError
            problems.append(kind(f"{part.part} cannot be judged: {error}"))
            continue
        for each, row in zip(tested, found, strict=True):
            each.rows.append(row)
            yield row
            yield from _robustness(described, part, each, problems)
    for each in tested:
        if len(each.rows) > 1:
            yield _bars(described, each)
    if problems:
        broken = any(isinstance(each, ValueError) for each in problems)
        raise (ValueError if broken else CannotRun)("; ".join(dict.fromkeys(map(str, problems))))


def _classifiers(
    context: Context, described: EvaluationSet, problems: list[Exception]
) -> Iterator[tuple[str, Classifier]]:
    """The probe, and zero-shot and the own head where the model has what they need."""
    try:
        probe = fitted(context, described)
        yield "probe", lambda files: probe.logits(context.pooled(files))
    except CannotRun as error:
        problems.append(error)
    if context.tower.config.text is not None:
        bank = class_bank(context, described.classes, described.templates)
        yield "zero-shot", lambda files: cosines(context.embeddings(files), bank)
    if head_knows(context, described):
        yield "own head", lambda files: head_logits(context, described, files)


def _judged(described: EvaluationSet, shift: Shift, tested: Sequence[_Tested]) -> Iterator[Row]:
    part = needed(described, shift.part, "be judged on")
    label_map = find_map(shift.label_map, described.folder, described.classes, part.labels)
    rows = Rows(SHIFTED, described, shift.part)
    for each in tested:
        found: Judged = judge(label_map, each.classifier(part.files), described.classes, part.labels)
        settings = {"shift": shift.title, "label_map": shift.label_map or "identity", "rule": label_map.rule}
        if left_out := len(part) - len(found.kept):
            settings["images_without_labels"] = left_out
        yield rows.row(f"top1 ({each.name})", found.right, found.guessed, **settings)


def _robustness(described: EvaluationSet, shift: Shift, tested: _Tested, problems: list[Exception]) -> Iterator[Row]:
    """The effective robustness, where the user has given reference models for the shift."""
    if shift.part == "test" or tested.rows[0].data != described.name:
        return
    try:
        line = _line(described, shift)
        if line is None:
            return
        base = _base(described, shift, tested)
    except ValueError as error:
        problems.append(error)
        return
    row = tested.rows[-1]
    low, high = row.interval or (row.value, row.value)
    expected = line.predicted(base)
    yield dataclasses.replace(
        row,
        metric=f"effective robustness ({tested.name})",
        value=row.value - expected,
        chance=None,
        interval=(low - expected, high - expected),
        interval_kind="Wilson, of the shifted accuracy alone",
        settings={**row.settings, "expected": expected, "reference_models": line.models, "reference": line.source},
        scores=None,
    )


def _base(described: EvaluationSet, shift: Shift, tested: _Tested) -> float:
    """The accuracy on the test part; where a map restricts to some classes, on their images, with them competing.

    So ImageNet-R and ImageNet-A are set beside the accuracy on their 200 classes of ImageNet (Taori et al. 2020).
    """
    label_map = find_map(shift.label_map, described.folder, described.classes, described.part(shift.part).labels)
    if label_map.rule != "restrict":
        return tested.rows[0].value
    test, shared = test_part(described), {canonical(told) for (told,) in label_map.classes.values()}
    inside = [place for place, (label,) in enumerate(test.labels) if canonical(label) in shared]
    if not inside:
        raise ValueError(f"{test.folder} has no image of a class of {shift.part}; effective robustness needs some")
    own = LabelMap("restrict", {told: (told,) for (told,) in label_map.classes.values()})
    logits, labels = (
        tested.classifier([test.files[place] for place in inside]),
        [test.labels[place] for place in inside],
    )
    return float(judge(own, logits, described.classes, labels).right.mean())


def _line(described: EvaluationSet, shift: Shift) -> ReferenceLine | None:
    """That of the shift's folder, or of the set's if it has but one shift."""
    own, whole = described.folder / shift.part / LINE_FILE, described.folder / LINE_FILE
    if own.is_file():
        return read_line(own)
    if not whole.is_file():
        return None
    if len(described.shifts) > 1:
        raise ValueError(
            f"{whole} does not say for which of {len(described.shifts)} shifts it is; move it into its part"
        )
    return read_line(whole)


def _bars(described: EvaluationSet, tested: _Tested) -> Plot:
    values = {
        "names": [str(row.settings["shift"]) for row in tested.rows],
        "values": [row.value for row in tested.rows],
        "intervals": [list(row.interval or (row.value, row.value)) for row in tested.rows],
        "label": "top-1 accuracy",
    }
    return Plot(SHIFTED, described.name, "bars", f"Accuracy under shift ({tested.name})", values)


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        SHIFTED,
        "Out of distribution",
        "classification",
        "section 4.2.3",
        "Top-1 accuracy on the shifts of a set, of the L-BFGS probe that was fitted to its training part, and of "
        "zero-shot and the model's own head where it has them, through a label map where the classes differ. Effective "
        "robustness is the accuracy less what a line through the user's reference models predicts from the accuracy on "
        "the test part, on the same classes where the map restricts to some (Taori et al. 2020).",
        out_of_distribution,
        lambda described: bool(described.shifts),
    ),
)
