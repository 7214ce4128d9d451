"""A split of a TensorFlow Datasets data set as a source, through tfds' own random access.

First step of the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The data
set has been prepared as ArrayRecord files: `tfds build NAME --file_format=array_record`. Its features decide what is
what: the one called `image`, or the only one that is an image; class labels, one or a sequence of them; and a text
called `caption`.
"""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from train.sources.example import Classes, Example

_NO_LABEL = -1  # as tfds writes a class label that a record does not have


class SplitSource:
    """One split; images come as they are stored, not decoded."""

    where_labels = "a feature that is a ClassLabel, or a sequence of them"

    def __init__(self, name: str, data_dir: str | None = None) -> None:
        """Opens a split.

        Args:
            name: data set, then split, as tfds writes them: `mnist/train`, `coco/2017/train[:90%]`.
            data_dir: where data sets lie; tfds' own default if not given.

        Raises:
            ValueError: there is no such data set or split, it is not prepared for random access, or has no image.
        """
        self._name = name
        dataset, _, split = name.rpartition("/")
        if not dataset:
            raise ValueError(f"tfds:{name}: expected a data set and a split, for instance tfds:mnist/train")
        builder = _prepared(dataset, data_dir)
        features = builder.info.features
        single = {key: kind for key, kind in features.items() if not hasattr(kind, "feature")}  # no sequence
        self._image = _role(name, single, tfds.features.Image, ("image",))
        if self._image is None:
            raise ValueError(f"tfds:{name} has the features {list(features)}, of which none is an image")
        self._class = _role(name, features, tfds.features.ClassLabel, ("label", "labels"))
        self._caption = "caption" if isinstance(single.get("caption"), tfds.features.Text) else None
        feature = features[self._class] if self._class else None
        # Of a sequence of class labels, the labels' feature is the inner one.
        self._classes = Classes(tuple(getattr(feature, "feature", feature).names) if feature else ())
        self.labels = self._classes.names
        decoders = {
            key: tfds.decode.SkipDecoding() for key, kind in single.items() if isinstance(kind, tfds.features.Image)
        }
        try:
            self._records = builder.as_data_source(split=split, decoders=decoders)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f"tfds:{name} cannot be read by number: {error}") from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        try:
            record = self._records[index]
        except (RuntimeError, ValueError) as error:  # of the reader, of the record
            raise ValueError(f"{self.name(index)} cannot be read: {error}") from error
        numbers = np.atleast_1d(record[self._class]).tolist() if self._class else []
        try:
            labels = tuple(self._classes.name(number) for number in numbers if number != _NO_LABEL)
            caption = record[self._caption].decode() if self._caption else None
        except ValueError as error:
            raise ValueError(f"{self.name(index)}: {error}") from error
        return Example(self.name(index), bytes(record[self._image]), labels, caption)

    def name(self, index: int) -> str:
        """Data set, split and number."""
        return f"tfds:{self._name}, record {index}"


def _prepared(dataset: str, data_dir: str | None) -> Any:
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"tfds:{dataset}: {str(error).splitlines()[0]}") from error
    if not builder.info.splits:
        raise ValueError(
            f"tfds:{dataset} is not prepared in {builder.data_dir}; "
            f"run: tfds build {dataset} --file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
        )
    return builder


def _role(name: str, features: Any, kind: type, usual: tuple[str, ...]) -> str | None:
    """The feature of a kind, alone or as a sequence: one with a usual name, or the only one; None if there is none."""
    found = [key for key, feature in features.items() if isinstance(getattr(feature, "feature", feature), kind)]
    chosen = [key for key in found if key in usual] or found
    if len(chosen) > 1:
        raise ValueError(
            f"tfds:{name} has several features that are {kind.__name__}: {found}; expected one called {usual[0]}"
        )
    return chosen[0] if chosen else None
