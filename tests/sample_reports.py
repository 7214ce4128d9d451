"""Reports of models that there are not, for the tests of what is made of reports."""

import numpy as np

from train.reports.document import ModelFacts, NotRun, ProtocolFacts, Report, SetFacts
from train.suite.outcome import Plot, Row

HOSTILE = "<script>alert('&')</script> $x$ _\"emoji\""
SETS = (
    SetFacts("emoji", "classification", "drawings of two styles, CC BY 4.0", False, "0123456789abcdef"),
    SetFacts("cut_outs", "segmentation", "put together", True, "fedcba9876543210"),
)
PROTOCOLS = (
    ProtocolFacts("linear-probe/1", "Linear probe", "table 1", "A linear classifier on frozen features."),
    ProtocolFacts("few-shot/1", "Few-shot", "figure 2", "Ridge on whitened features of a few images a class."),
    ProtocolFacts("calibration/1", "Calibration", "section 4.4", "How far confidence is accuracy."),
    ProtocolFacts("segmentation/1", "Segmentation", "section 4.3", "A head on frozen tokens."),
    ProtocolFacts("depth/1", "Depth", "section 4.3", "Never run here."),
)


def row(**changes):
    values = {
        "protocol": "linear-probe/1",
        "data": "emoji",
        "metric": "top1",
        "value": 0.75,
        "better": "more",
        "examples": 4,
        "chance": 0.25,
        "interval": (0.3, 0.95),
        "interval_kind": "Wilson",
        "settings": {"classifier": "sgd", "chosen": {"learning_rate": 0.1}},
        "scores": (1.0, 1.0, 0.0, 1.0),
    }
    return Row(**values | changes)


def rows(quality=0.75):
    right = tuple(float(i < round(100 * quality)) for i in range(100))
    mean = sum(right) / 100
    plain = {"interval": None, "interval_kind": None, "scores": None}
    probe = row(value=mean, examples=100, scores=right, interval=(mean - 0.09, mean + 0.09))
    shots = [
        row(
            protocol="few-shot/1",
            value=quality - 0.4 / shots,
            settings={"shots": shots},
            deviation=0.02,
            seeds=3,
            **plain,
        )
        for shots in (1, 5, 10, 25)
    ]
    ece = row(protocol="calibration/1", metric="ece", value=1 - quality, better="less", chance=None, **plain)
    miou = row(
        **{**plain, "settings": {"head": "linear", "fraction": 1.0}},
        protocol="segmentation/1",
        data="cut_outs",
        metric="mIoU",
        value=0.31,
        synthetic=True,
    )
    return (probe, *shots, ece, miou)


def plots():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 3, 16, 16, 3)).astype(np.uint8)
    bins = [
        {"low": i / 15, "high": (i + 1) / 15, "confidence": (i + 0.6) / 15, "accuracy": (i + 0.2) / 15, "count": 3 * i}
        for i in range(15)
    ]
    shots = {"ridge": np.array([0.3, 0.5, 0.6, 0.65]), "_hidden": np.array([0.2, 0.3, 0.4, 0.45])}
    few_shot = {
        "x": np.array([1, 5, 10, 25]),
        "series": shots,
        "deviations": {"ridge": np.full(4, 0.03)},
        "x_label": "images a class",
        "y_label": "top1",
        "log_x": True,
    }
    names = ["light", "medium", HOSTILE]
    groups = {"names": names, "values": [0.8, 0.7, 0.9], "intervals": [(0.7, 0.85), (0.6, 0.8), (0.8, 0.95)]}
    return (
        Plot("few-shot/1", "emoji", "curve", "Few-shot", few_shot),
        Plot("calibration/1", "emoji", "reliability", "Before scaling", {"bins": bins, "ece": 0.0267}),
        Plot(
            "linear-probe/1", "emoji", "confusion", "Confusions", {"classes": names, "counts": 4 * np.eye(3, dtype=int)}
        ),
        Plot("linear-probe/1", "emoji", "bars", "By group", {**groups, "label": "accuracy"}),
        Plot(
            "segmentation/1",
            "cut_outs",
            "overlays",
            "Found",
            {"rows": pictures, "columns": ["image", "label", HOSTILE]},
        ),
    )


def report(source="checkpoint:build/mu", quality=0.75, **changes):
    model = ModelFacts(source, "0011223344556677", "mu", 1_000_000, 900_000, 112, 14, 600, 2.5e15)
    values = {
        "model": model,
        "date": "2030-01-01",
        "git_revision": "abc",
        "packages": {"jax": "0.0"},
        "sets": SETS,
        "protocols": PROTOCOLS,
        "rows": rows(quality),
        "plots": plots(),
        "not_run": (NotRun("depth/1", HOSTILE, "the set has no part test; write one"),),
        "seconds": {"linear-probe/1": 12.25},
    }
    return Report(**values | changes)
