import dataclasses
import json
from pathlib import Path

import pytest

from tests.planted_tower import COLOURS, PlantedTower, context, write_part
from train.evaluation_sets.reading import EvaluationSet, Shift
from train.suite import classification, shifted
from train.suite.context import Context
from train.suite.outcome import CannotRun, Plot, Row
from train.suite.running import Ran, Task, run

NAMES = tuple(COLOURS)
PROTOCOLS = {each.id: each for each in (*classification.PROTOCOLS, *shifted.PROTOCOLS)}
IMAGES = 5  # of each class in the test part


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    """Images of six colours; their shifts are darker, warm or cold, without labels here and there, and not there."""
    folder = tmp_path_factory.mktemp("colours")
    write_part(folder / "train", [(name, {"labels": [name]}) for name in NAMES for _ in range(12)])
    captioned = [(name, {"labels": [name], "caption": f"a square of {name}"}) for name in NAMES for _ in range(IMAGES)]
    write_part(folder / "test", captioned)
    dark = [([channel * 0.7 for channel in COLOURS[name]], {"labels": [name]}) for name in ("red", "cyan", "cyan")]
    write_part(folder / "dark", dark)
    warmth = {"warm": ["red", "yellow", "magenta"], "cold": ["green", "blue", "cyan"]}
    (folder / "warmth.json").write_text(json.dumps({"rule": "max", "classes": warmth}))
    warm = [(name, {"labels": [label]}) for label, names in warmth.items() for name in names]
    write_part(folder / "warmth", warm)
    several = [("red", {"labels": ["red", "blue"]}), ("green", {}), ("green", {"labels": ["blue"]})]
    write_part(folder / "several", several)
    (folder / "dark" / "reference_line.json").write_text('{"points": [[0.2, 0.2], [0.8, 0.8]], "source": "diagonal"}')
    shifts = (
        Shift("dark", "darker", "subset"),
        Shift("missing", "not there"),
        Shift("warmth", "warmth", "warmth.json"),
        Shift("several", "several labels", "real"),
    )
    return EvaluationSet(
        folder, "colours", "classification", "painted", True, NAMES, ("a {} thing",), shifts, retrieval=True
    )


def rows(protocol: str, given: Context, described: EvaluationSet) -> dict[tuple[str, str], Row]:
    """What a protocol says, by data and metric; checks what holds of each row."""
    found = {}
    ran = run(given, Task(PROTOCOLS[protocol], described))
    assert ran.failed is None
    # The set here names a part that is not there.
    assert (ran.cannot is None) == (protocol != shifted.SHIFTED)
    for row in ran.outcomes:
        if isinstance(row, Row):
            assert (row.protocol, row.synthetic) == (protocol, True)
            assert (row.data, row.metric) not in found
            found[row.data, row.metric] = row
            if row.scores is not None:
                assert len(row.scores) == row.examples
                assert sum(row.scores) / row.examples == pytest.approx(row.value)
            assert row.interval is not None
            assert row.interval[0] <= row.value <= row.interval[1]
    return found


def rows_of(ran: Ran) -> dict[tuple[str, str], Row]:
    return {(row.data, row.metric): row for row in ran.outcomes if isinstance(row, Row)}


ALL = [name for name in PROTOCOLS if name != shifted.SHIFTED]


@pytest.mark.parametrize("protocol", ALL)
def test_planted_colours_are_always_found(protocol: str, colours: EvaluationSet, tmp_path: Path) -> None:
    found = rows(protocol, context(PlantedTower((*NAMES, "other")), tmp_path), colours)
    assert found
    for (data, metric), row in found.items():
        assert data == "colours"
        assert row.value == 1.0, metric
        assert row.chance is not None
        assert (row.beats_chance_by or 0) > 0


@pytest.mark.parametrize("protocol", ["linear-probe/1", "few-shot/1", "nearest-neighbours/1", "zero-shot/1", "head/1"])
def test_noise_is_near_chance(protocol: str, colours: EvaluationSet, tmp_path: Path) -> None:
    for row in rows(protocol, context(PlantedTower(NAMES, blind=True), tmp_path), colours).values():
        assert row.chance == pytest.approx(5 / 6 if row.metric == "top5" else 1 / 6)
        assert row.interval is not None
        assert abs(row.value - row.chance) < 0.27  # four standard deviations of 30 images


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_served_model_gives_the_numbers_of_the_checkpoint(
    protocol: str, colours: EvaluationSet, tmp_path: Path
) -> None:
    one, other = (
        rows(protocol, context(PlantedTower(NAMES, wobble=wobble), tmp_path), colours) for wobble in (0.0, 1e-6)
    )
    assert one.keys() == other.keys()
    for name, row in one.items():
        assert row.value == pytest.approx(other[name].value, abs=1e-4)
        assert row.settings == other[name].settings


def test_few_shots_are_over_seeds_and_drawn_as_a_curve(colours: EvaluationSet, tmp_path: Path) -> None:
    found = list(classification.few_shots(context(PlantedTower(), tmp_path), colours))
    *shots, curve = found
    assert [row.settings["shots"] for row in shots if isinstance(row, Row)] == [1, 5, 10]
    assert all(row.seeds == 2 and row.deviation == 0.0 for row in shots if isinstance(row, Row))
    assert isinstance(curve, Plot)
    assert shots[0].settings["shots_left_out"] == [25]
    assert (curve.kind, curve.values["x"]) == ("curve", [1, 5, 10])
    once = list(classification.few_shots(context(PlantedTower(), tmp_path, seeds=1), colours))
    assert isinstance(once[0], Row)
    assert once[0].deviation is None


def test_the_probe_has_three_solvers_and_a_confusion_matrix(colours: EvaluationSet, tmp_path: Path) -> None:
    *found, plot = classification.linear_probe(context(PlantedTower(), tmp_path), colours)
    assert [row.settings["solver"] for row in found if isinstance(row, Row)] == ["SGD", "closed form", "L-BFGS"]
    assert isinstance(found[0], Row)
    assert found[0].settings["epochs"] == 4
    assert isinstance(plot, Plot)
    assert plot.values["counts"] == [[IMAGES * (row == column) for column in range(6)] for row in range(6)]


def test_equal_captions_are_all_right(colours: EvaluationSet, tmp_path: Path) -> None:
    found = rows("retrieval/1", context(PlantedTower(), tmp_path), colours)
    assert {metric for _, metric in found} == {
        f"{way} recall@{top}" for way in ("image to text", "text to image") for top in (1, 5, 10)
    }
    # Five captions of a colour are equal: each is right for each of its five images.
    assert found["colours", "image to text recall@1"].value == 1.0
    assert found["colours", "text to image recall@1"].chance == pytest.approx(5 / 30)


def test_shifts_are_judged_through_their_maps_and_one_that_is_not_there_hides_none(
    colours: EvaluationSet, tmp_path: Path
) -> None:
    ran = run(context(PlantedTower(NAMES), tmp_path), Task(PROTOCOLS[shifted.SHIFTED], colours))
    assert ran.cannot is not None
    assert ran.cannot.startswith("missing cannot be judged")
    assert ran.failed is None
    found, values = ran.outcomes, rows_of(ran)
    for name in ("probe", "zero-shot", "own head"):
        metric = f"top1 ({name})"
        assert values["colours", metric].value == 1.0
        assert values["colours/dark", metric].value == 1.0
        assert values["colours/dark", metric].chance == pytest.approx(2 / 3)
        assert values["colours/warmth", metric].value == 1.0
        assert values["colours/several", metric].value == 0.5
        assert values["colours/several", metric].settings["images_without_labels"] == 1
        # The line is the diagonal, and both accuracies are 1.
        robust = values["colours/dark", f"effective robustness ({name})"]
        assert robust.value == pytest.approx(0, abs=1e-5)
        assert robust.settings["reference"] == "diagonal"
    assert sum("robustness" in metric for _, metric in values) == 3
    bars = [plot for plot in found if isinstance(plot, Plot)]
    assert [plot.values["names"] for plot in bars] == [["test", "darker", "warmth", "several labels"]] * 3


def test_effective_robustness_is_over_the_accuracy_on_the_same_classes(tmp_path: Path) -> None:
    # The test images of yellow show magenta, so that a third is wrong; the shift has red and green alone, all right.
    classes, shown = ("red", "green", "yellow"), {"yellow": "magenta"}
    for part, names in (("train", (*classes, "magenta")), ("test", classes), ("few", classes[:2])):
        write_part(
            tmp_path / part,
            [
                (shown.get(name, name) if part == "test" else name, {"labels": [name]})
                for name in names
                for _ in range(6)
            ],
        )
    (tmp_path / "few" / "reference_line.json").write_text('{"points": [[0.1, 0.1], [0.9, 0.9]], "source": "diagonal"}')
    described = EvaluationSet(
        tmp_path,
        "some",
        "classification",
        "painted",
        True,
        (*classes, "magenta"),
        shifts=(Shift("few", "few", "subset"),),
    )
    found = rows_of(run(context(PlantedTower(texts=False), tmp_path), Task(PROTOCOLS[shifted.SHIFTED], described)))
    assert found["some", "top1 (probe)"].value == pytest.approx(2 / 3)
    assert found["some/few", "top1 (probe)"].value == 1
    assert found["some/few", "effective robustness (probe)"].value == pytest.approx(0, abs=1e-5)


def test_a_broken_shift_is_no_lack_of_the_models(colours: EvaluationSet, tmp_path: Path) -> None:
    broken = dataclasses.replace(colours, shifts=(Shift("dark", "darker", "nothing.json"), *colours.shifts[2:]))
    ran = run(context(PlantedTower(texts=False), tmp_path), Task(PROTOCOLS[shifted.SHIFTED], broken))
    assert ran.cannot is None
    assert ran.failed is not None
    assert "dark cannot be judged: the label map 'nothing.json' is no file" in ran.failed
    assert ("colours/warmth", "top1 (probe)") in rows_of(ran)


def test_a_line_for_one_of_several_shifts_has_to_say_which(colours: EvaluationSet, tmp_path: Path) -> None:
    line = colours.folder / "reference_line.json"
    line.write_text('{"points": [[0.2, 0.2], [0.8, 0.8]], "source": "diagonal"}')
    given = context(PlantedTower(texts=False), tmp_path)
    try:
        with pytest.raises(ValueError, match="does not say for which of 3 shifts"):
            list(shifted.out_of_distribution(given, dataclasses.replace(colours, shifts=colours.shifts[:3])))
        warmth = dataclasses.replace(colours, shifts=colours.shifts[2:3])
        found = list(shifted.out_of_distribution(given, warmth))
    finally:
        line.unlink()
    assert "effective robustness (probe)" in [row.metric for row in found if isinstance(row, Row)]


def test_what_a_model_lacks_is_told(colours: EvaluationSet, tmp_path: Path) -> None:
    bare = context(PlantedTower(texts=False), tmp_path)
    for protocol, message in {
        "zero-shot/1": "no text tower",
        "retrieval/1": "no text tower",
        "head/1": "no head",
    }.items():
        with pytest.raises(CannotRun, match=message):
            list(PROTOCOLS[protocol].runs(bare, colours))
    with pytest.raises(CannotRun, match="'red' is none of the head's labels; the nearest"):
        list(PROTOCOLS["head/1"].runs(context(PlantedTower(("rod", "green")), tmp_path), colours))
    unlabelled = dataclasses.replace(colours, folder=tmp_path)
    for protocol in ("zero-shot/1", "retrieval/1", "head/1"):
        with pytest.raises(ValueError, match=r"has no part .* to be judged on"):
            list(PROTOCOLS[protocol].runs(context(PlantedTower(NAMES), tmp_path), unlabelled))
    write_part(tmp_path / "test", [("red", {"labels": ["red"]})])
    for protocol in ("linear-probe/1", "few-shot/1", "nearest-neighbours/1"):
        with pytest.raises(CannotRun, match=r"has no part .* to learn from"):
            list(PROTOCOLS[protocol].runs(bare, unlabelled))
    with pytest.raises(CannotRun, match=r"no image of .* has a caption"):
        list(PROTOCOLS["retrieval/1"].runs(context(PlantedTower(), tmp_path), unlabelled))


def test_protocols_ask_for_the_sets_that_they_are_for(colours: EvaluationSet) -> None:
    plain = dataclasses.replace(colours, shifts=(), retrieval=False)
    assert {name for name, each in PROTOCOLS.items() if not each.asks(plain)} == {
        "retrieval/1",
        "out-of-distribution/1",
    }
    assert all(each.asks(colours) for each in PROTOCOLS.values())
