"""An evaluation set of every kind, made of the tests' digits at 28 pixels, in the formats that users write.

They are small, and made to run every protocol, not to be learnt well.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from train.evaluation_sets.reading import EvaluationSet, Shift, write_set
from vit22b.folder import METADATA_FILE, read_folder

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE, FRAMES = 28, 4


def write_sets(digits: Path, root: Path, train: int = 200, test: int = 60) -> Path:
    """A set of every kind below root, of so many digits each."""
    images = {part: _digits(digits / part, count) for part, count in (("heldout", test), ("train", train))}
    parts = {"train": images["train"], "test": images["heldout"]}
    _classification(root, parts)
    _groups(root, parts)
    _conflicts(root, images["heldout"])
    _masks(root, parts)
    _depths(root, parts)
    _clips(root, parts)
    return root


def _digits(folder, count):
    """Pixels uint8 [28, 28] and the name of each, spread over the classes."""
    records = read_folder(folder).records
    chosen = [records[place] for place in np.linspace(0, len(records) - 1, count).astype(int)]
    return [(np.asarray(Image.open(record.path).convert("L")), record.labels[0]) for record in chosen]


def _write(folder, rows):
    """Images and their lines; a row is (pixels, fields)."""
    folder.mkdir(parents=True)
    lines = []
    for number, (pixels, fields) in enumerate(rows):
        name = f"{number:03d}.png"
        Image.fromarray(pixels).convert("RGB").save(folder / name)
        lines.append(json.dumps({"file_name": name, **fields}))
    (folder / METADATA_FILE).write_text("\n".join(lines) + "\n")


def _classification(root, parts):
    for part, images in parts.items():
        rows = [
            (pixels, {"labels": [name], "caption": f"the digit {name}, number {i}"})
            for i, (pixels, name) in enumerate(images)
        ]
        _write(root / "digits" / part, rows)
    even = {name: "even" if i % 2 == 0 else "odd" for i, name in enumerate(NAMES)}
    _write(root / "digits" / "inverted", [(255 - pixels, {"labels": [name]}) for pixels, name in parts["test"]])
    _write(root / "digits" / "parity", [(pixels, {"labels": [even[name]]}) for pixels, name in parts["test"]])
    table = {kind: [name for name in NAMES if even[name] == kind] for kind in ("even", "odd")}
    (root / "digits" / "parity.json").write_text(json.dumps({"rule": "max", "classes": table}))
    _noise(root / "digits" / "noise", len(parts["test"]))
    shifts = Shift("inverted", "dark on light"), Shift("parity", "even and odd", "parity.json")
    write_set(
        EvaluationSet(
            root / "digits", "digits", "classification", "MNIST", False, NAMES, ("digits",), shifts,
            retrieval=True, details={"out_of_distribution": "noise"},
        )
    )  # fmt: skip


def _noise(folder, count):
    """A set of no digits, below another's folder, where only that one finds it."""
    random = np.random.default_rng(0)
    pixels = random.integers(256, size=(count, SIDE, SIDE)).astype(np.uint8)
    _write(folder / "test", [(each, {"labels": ["noise"]}) for each in pixels])
    write_set(EvaluationSet(folder, "noise", "classification", "a random generator", True, ("noise",)))


def _groups(root, parts):
    for part, images in parts.items():
        ink = np.asarray([pixels.mean() for pixels, _ in images])
        groups = np.where(ink > np.median(ink), "thick", "thin")
        _write(
            root / "ink" / part, [(p, {"labels": [n], "group": g}) for (p, n), g in zip(images, groups, strict=True)]
        )
    details = {"positive": ["one", "four", "seven"]}
    write_set(
        EvaluationSet(
            root / "ink", "ink", "classification", "MNIST", True, NAMES, ("digits",), groups="ink", details=details
        )
    )


def _conflicts(root, images):
    rows = []
    for (shape, name), (texture, other) in zip(images, images[1:] + images[:1], strict=True):
        tiles = np.tile(texture[::2, ::2], (2, 2))
        rows.append(
            (np.where(shape > 64, 128 + tiles // 2, tiles // 4).astype(np.uint8), {"shape": name, "texture": other})
        )
    _write(root / "conflicts" / "test", rows)
    write_set(
        EvaluationSet(
            root / "conflicts", "conflicts", "cues", "MNIST", True, NAMES, ("digits",),
            categories={name: name for name in NAMES}, details={"classifier_set": "../digits"},
        )
    )  # fmt: skip


def _masks(root, parts):
    for part, images in parts.items():
        _write(root / "masks" / part, [(pixels, {"mask": f"{i:03d}.mask.png"}) for i, (pixels, _) in enumerate(images)])
        for i, (pixels, _) in enumerate(images):
            mask = (pixels > 100).astype(np.uint8)
            mask[0, 0] = 255
            Image.fromarray(mask).save(root / "masks" / part / f"{i:03d}.mask.png")
    legend = {"paper": (20, 20, 20), "ink": (220, 120, 20)}
    write_set(EvaluationSet(root / "masks", "masks", "segmentation", "MNIST", True, ("paper", "ink"), legend=legend))


def _depths(root, parts):
    for part, images in parts.items():
        _write(root / "depths" / part, [(pixels, {"depth": f"{i:03d}.npy"}) for i, (pixels, _) in enumerate(images)])
        for i, (pixels, _) in enumerate(images):
            depth = (3.0 - pixels / 128.0).astype(np.float32)
            depth[0, 0] = np.nan
            np.save(root / "depths" / part / f"{i:03d}.npy", depth)
    write_set(EvaluationSet(root / "depths", "depths", "depth", "MNIST", True))


def _clips(root, parts):
    for part, images in parts.items():
        rows, folder = [], root / "clips" / part
        for i, (pixels, _) in enumerate(images):
            right = i % 2
            frames = [np.roll(pixels, (2 * right - 1) * 4 * step, axis=1) for step in range(FRAMES)]
            names = [f"{i:03d}.png", *(f"{i:03d}-{step}.jpg" for step in range(1, FRAMES))]
            rows.append((frames[0], {"labels": ["right" if right else "left"], "frames": names}, frames[1:]))
        _write(folder, [(pixels, fields) for pixels, fields, _ in rows])
        for i, (_, fields, others) in enumerate(rows):
            assert fields["frames"][0] == f"{i:03d}.png"
            for name, frame in zip(fields["frames"][1:], others, strict=True):
                Image.fromarray(frame).convert("RGB").save(folder / name, quality=95)
    sampling = {"sampling": {"frames": 2, "views": 2, "crops": 3}}
    write_set(EvaluationSet(root / "clips", "clips", "video", "MNIST", True, ("left", "right"), details=sampling))
