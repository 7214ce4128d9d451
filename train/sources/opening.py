"""Opens a source by its name: what kinds there are, and which package each needs.

First step of the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A new kind of
storage is a module beside this one and a line or two here.
"""

from train.sources.example import Source, matching_files
from train.sources.folders import FolderSource
from vit22b.folder import read_folder

_PACKAGES = {
    "tfds": "tensorflow-datasets array_record importlib_resources",
    "arrayrecord": "array_record",
    "tar": "webdataset",
}


def open_source(name: str) -> Source:
    """Opens one source of training images.

    Args:
        name: a folder of images (see vit22b.folder.read_folder), or
            "tfds:NAME/SPLIT" or "tfds:NAME/SPLIT@DATA_DIR" (train.sources.splits),
            "arrayrecord:FILES" (train.sources.records) or "tar:FILES" (train.sources.tars), FILES being a glob pattern.

    Raises:
        ValueError: it is not there, is not what it should be, or its library is not installed.
    """
    kind, colon, rest = name.partition(":")
    if not colon:
        return FolderSource(read_folder(name))
    # Each library is imported by who uses it: together they take seconds, and a folder needs none.
    try:
        if kind == "tfds":
            from train.sources.splits import SplitSource

            split, _, data_dir = rest.partition("@")
            return SplitSource(split, data_dir or None)
        if kind == "arrayrecord":
            from train.sources.records import RecordSource

            return RecordSource(matching_files(rest))
        if kind == "tar":
            from train.sources.tars import TarSource, tar_files

            return TarSource(tar_files(rest))
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} needs the package of {error.name}, which is not installed: pip install {_PACKAGES[kind]}"
        ) from error
    raise ValueError(
        f"{name}: {kind!r} is no kind of source; expected a folder, or {', '.join(f'{k}:' for k in _PACKAGES)}"
    )
