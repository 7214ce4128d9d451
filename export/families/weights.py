"""The tensors of others, by name: what a safetensors, .npz or ONNX file holds, read one at a time.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client:
export/import_weights.py reads through here. Files that run code when they are read (pickles) are not read.
"""

import dataclasses
import fnmatch
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

Array = npt.NDArray[Any]

_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_KNOWN = ("model.safetensors", _INDEX, "*.safetensors", "*.npz", "*.onnx")
_KINDS = ("F16", "BF16", "F32", "F64")  # as safetensors names them
_TYPES = ("float16", "bfloat16", "float32", "float64")
# What the libraries raise over a file that is cut off or overwritten.
_DAMAGE = (SafetensorError, zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Named tensors.

    Attributes:
        path: what the user named, for messages.
        shapes: by name.
        reader: gives a tensor of `shapes`.
        config: what config.json beside them says; empty where there is none.
        origins: the file's own names, by those that a family has given instead.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    reader: Callable[[str], Array]
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def own(self, name: str) -> str:
        """The name that the file has for a tensor, as the user knows it."""
        return self.origins.get(name, name)

    def read(self, name: str) -> Array:
        """One tensor in float32, which holds what float16 and bfloat16 do.

        Raises:
            ValueError: it is damaged, or of a type that is no plain floating point.
        """
        try:
            tensor = self.reader(name)
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: the tensor {self.own(name)} cannot be read: {error}") from error
        if tensor.dtype.name not in _TYPES:
            raise ValueError(
                f"{self.path}: the tensor {self.own(name)} is {tensor.dtype}; expected one of {', '.join(_TYPES)}. "
                "Take the weights before they were quantised"
            )
        return np.asarray(tensor, np.float32)

    def replaced(self, tensors: Mapping[str, Array]) -> "Weights":
        """The same with some tensors replaced, or added."""
        shapes = {**self.shapes, **{name: tensor.shape for name, tensor in tensors.items()}}
        return dataclasses.replace(
            self, shapes=shapes, reader=lambda name: tensors[name] if name in tensors else self.reader(name)
        )

    def without_prefix(self, anchor: str) -> "Weights":
        """The same without the prefix that a tensor has which is known by its end; names without it stay as they are.

        Args:
            anchor: the end: "embeddings.x" takes "vit." off all of them where there is "vit.embeddings.x".
        """
        prefixes = [name.removesuffix(anchor) for name in self.shapes if name.endswith(anchor)]
        prefix = min(prefixes, key=len, default="")
        return self.renamed(lambda name: name.removeprefix(prefix))

    def without(self, patterns: Sequence[str]) -> "Weights":
        """The same less what one of the patterns (fnmatch) names."""
        kept = {n: s for n, s in self.shapes.items() if not any(fnmatch.fnmatchcase(n, p) for p in patterns)}
        return dataclasses.replace(self, shapes=kept)

    def renamed(self, rename: Callable[[str], str]) -> "Weights":
        """The same under other names.

        Raises:
            ValueError: two tensors get the same name.
        """
        names: dict[str, str] = {}
        for name in self.shapes:
            new = rename(name)
            if new in names:
                raise ValueError(
                    f"{self.path} has {self.own(names[new])} and {self.own(name)}, which are both {new} to this "
                    "family; leave one out with --skip"
                )
            names[new] = name
        shapes = {new: self.shapes[name] for new, name in names.items()}
        origins = {new: self.own(name) for new, name in names.items()}
        return dataclasses.replace(self, shapes=shapes, reader=lambda new: self.reader(names[new]), origins=origins)

    def depth(self, pattern: str) -> int:
        """How many layers there are of a name with {} for the layer's number."""
        expression = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
        numbers = [int(found[1]) for name in self.shapes if (found := expression.fullmatch(name))]
        return max(numbers, default=-1) + 1

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that a family cannot be without.

        Raises:
            ValueError: there is no such tensor.
        """
        if name not in self.shapes:
            near = ", ".join(sorted(self.shapes)[:8])
            raise ValueError(f"{self.path} has no tensor {name}; its {len(self.shapes)} names begin with {near}")
        return self.shapes[name]


def open_weights(path: Path | str) -> Weights:
    """Opens what a user has: a file, or a folder as save_pretrained and model hubs lay it out.

    Args:
        path: a .safetensors, .npz or .onnx file, or a folder with one, or with a sharded safetensors and its index.

    Raises:
        ValueError: there is nothing of the kind, or it is damaged.
    """
    path = Path(path)
    file = _the_file(path) if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path} does not exist; name a .safetensors, .npz or .onnx file, or the folder of one")
    if file.suffix in _PICKLES:
        raise ValueError(
            f"{file} is a pickle, which can run any code when it is read; save it as safetensors "
            "(model.save_pretrained(folder, safe_serialization=True)) and name that folder"
        )
    readers = {".safetensors": _safetensors, ".json": _sharded, ".npz": _npz, ".onnx": _onnx}
    if file.suffix not in readers:
        raise ValueError(f"{file} is of no kind that is read; expected .safetensors, .npz or .onnx")
    try:
        shapes, reader = readers[file.suffix](file)
    except (SafetensorError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is damaged: {error}; copy it again") from error
    config = file.parent / "config.json"
    return Weights(path, shapes, reader, read_json(config) if config.is_file() else {})


def read_json(file: Path) -> dict[str, Any]:
    """The object in one of the JSON files that lie beside weights.

    Raises:
        ValueError: it is damaged, or no object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{file} is damaged: {error}; copy it again from where the weights are from") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} has a {type(values).__name__}; expected a JSON object. Copy it again")
    return values


def _the_file(folder: Path) -> Path:
    """The one file of weights in a folder."""
    for pattern in _KNOWN:
        files = sorted(folder.glob(pattern))
        if len(files) > 1:
            raise ValueError(f"{folder} has {len(files)} files {pattern}: {', '.join(f.name for f in files)}; name one")
        if files:
            return files[0]
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix in _PICKLES]
    if pickles:
        return pickles[0]
    raise ValueError(f"{folder} has no weights; expected one of {', '.join(_KNOWN)}")


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], Array]]


def _safetensors(file: Path) -> Opened:
    handle = safe_open(file, "np")
    names = handle.keys()
    return {name: tuple(handle.get_slice(name).get_shape()) for name in names}, lambda name: _tensor(handle, name)


def _tensor(handle: Any, name: str) -> Array:
    """A tensor of a safetensors file; types that NumPy has not are told before it trips over them."""
    kind = handle.get_slice(name).get_dtype()
    if kind not in _KINDS:
        raise ValueError(f"it is {kind}; expected one of {', '.join(_KINDS)}, as it was before it was quantised")
    tensor: Array = handle.get_tensor(name)
    return tensor


def _sharded(index: Path) -> Opened:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict):
        raise ValueError(f"{index} has no weight_map, which says where the tensors are; copy it again")
    missing = sorted({file for file in where.values() if not (index.parent / file).is_file()})
    if missing:
        raise ValueError(f"{index} names {', '.join(missing)}, which is not there; copy the whole folder")
    handles = {file: safe_open(index.parent / file, "np") for file in sorted(set(where.values()))}
    shapes = {name: tuple(handles[file].get_slice(name).get_shape()) for name, file in where.items()}
    return shapes, lambda name: _tensor(handles[where[name]], name)


def _npz(file: Path) -> Opened:
    shapes = {}
    with zipfile.ZipFile(file) as archive:  # np.load would read each array to tell its shape
        for member in archive.namelist():
            try:
                with archive.open(member) as stream:
                    header = _HEADERS[np.lib.format.read_magic(stream)]
                    shapes[member.removesuffix(".npy")] = header(stream)[0]
            except _DAMAGE as error:
                raise ValueError(f"{file}: {member} is no array that can be read: {error}; copy it again") from error

    def read(name: str) -> Array:
        with np.load(file, allow_pickle=False) as arrays:
            array = arrays[name]
        # NumPy stores bfloat16 as two bytes without a meaning, the upper half of a float32.
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if array.dtype == "V2" else array

    return shapes, read


def _onnx(file: Path) -> Opened:
    from export.families import onnx_names  # the one format that needs a library beyond the project's own

    tensors = onnx_names.named_tensors(file)
    return {name: tensor.shape for name, tensor in tensors.items()}, tensors.__getitem__
