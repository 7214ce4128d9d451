"""Writes the sets that a tower is judged on, out of what installs as ordinary packages.

    .venv/bin/python train/evaluation_data.py --output build/eval/sets

makes a folder for every set (train/evaluation_sets/reading.py has the format) and `pretraining`, a folder of images
that the demo's tower is trained on. What is there already is left alone: a set that this program made, unless another
version of it would make it otherwise or a package is there now that it had to do without, and every set of your own.
Most sets come out of packages of the group `eval`; what comes out of Debian's is left out where these cannot be had,
and the program says so.
"""

import dataclasses
import time
from pathlib import Path

from train.evaluation_sets.debian import Debian, Unavailable
from train.evaluation_sets.maker import WITHOUT, Maker
from train.evaluation_sets.makers import MAKERS
from train.evaluation_sets.pretraining import FOLDER, gather
from train.evaluation_sets.reading import SET_FILE, EvaluationSet, read_set
from train.evaluation_sets.writing import finish, whole_folder
from vit22b import program


@dataclasses.dataclass(frozen=True)
class Settings:
    """Write the evaluation's own sets."""

    output: Path = Path("build/eval/sets")
    """Folder of the sets, a folder each."""
    only: tuple[str, ...] = ()
    """Names of the sets to make; all of them by default."""
    debian: Path = Path("build/eval/debian")
    """Folder that Debian's packages are unpacked into, a folder each, named as the package."""
    no_debian: bool = False
    """Download nothing from Debian; packages that are unpacked already are used."""


def write(settings: Settings) -> None:
    """Makes what is missing; tells of every set in a line."""
    makers = _chosen(settings.only)
    debian = Debian(settings.debian, allowed=not settings.no_debian)
    wanted = [maker for maker in makers if _is_wanted(settings.output / maker.name, maker, debian)]
    for maker in wanted:
        maker.check_modules()
    for maker in wanted:
        print(_made(settings.output / maker.name, maker, debian), flush=True)
    if not settings.only or FOLDER in settings.only:
        count = gather(settings.output)
        print(f"{FOLDER}: {'there already' if count is None else f'{count} images'}")


def _chosen(only: tuple[str, ...]) -> list[Maker]:
    names = [*(maker.name for maker in MAKERS), FOLDER]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"--only names {unknown[0]!r}; the sets are {', '.join(names)}")
    return [maker for maker in MAKERS if not only or maker.name in only]


def _is_wanted(folder: Path, maker: Maker, debian: Debian) -> bool:
    """Whether to make a set; says why not.

    Raises:
        ValueError: what is there is no set, or a broken one.
    """
    if not folder.exists():
        return True
    if not (folder / SET_FILE).is_file():
        raise ValueError(f"{folder} is there and has no {SET_FILE}, so that this program did not make it; move it away")
    found = read_set(folder)
    if found.makers is None:
        print(f"{maker.name}: your own set, left alone")
        return False
    if found.makers != maker.version or _is_had(found, debian):
        return True
    print(f"{maker.name}: there already{_without(found)}")
    return False


def _is_had(found: EvaluationSet, debian: Debian) -> bool:
    """Whether a package can be had by now that the set had to do without."""
    for name in found.details.get(WITHOUT, ()):
        try:
            debian.package(name)
        except Unavailable:
            continue
        return True
    return False


def _made(folder: Path, maker: Maker, debian: Debian) -> str:
    begin = time.perf_counter()
    try:
        with whole_folder(folder) as partial:
            described = maker.makes(partial, debian)
            finish(described)
            parts = sorted(path.parent.name for path in partial.glob("*/metadata.jsonl"))
            counts = ", ".join(f"{name} {len(described.part(name)):,}" for name in parts)
    except Unavailable as reason:
        return f"{maker.name}: left out. {reason}"
    return f"{maker.name}: {counts}; {time.perf_counter() - begin:.1f} s{_without(described)}"


def _without(described: EvaluationSet) -> str:
    missing = described.details.get(WITHOUT, ())
    return f"; without Debian's {' and '.join(missing)}" if missing else ""


if __name__ == "__main__":
    program.run(write, Settings, __doc__)
