"""An index of vectors on disk: which are nearest to another one, found by a graph or by looking at all of them.

Behind clients/search.py, after the last step of the walk SavedModel -> server -> client -> files of vectors -> [index].
The graph is usearch's (HNSW, Malkov and Yashunin 2016); what lies beside it says which space its vectors are of.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from usearch.index import Index, Matches

from clients.origin import Array, Origin
from vit22b.embeddings import Embeddings, check_same_space

_FORMAT = 1
_GRAPH, _ABOUT = "graph.usearch", "index.json"
_CHUNK = 10_000  # vectors that are added between two looks at the keyboard
# Threads that add to a graph with almost nothing in it do not see each other's vectors, and leave some hard to reach.
_ALONE = 1000
_WIDTH = 256  # of a search: with usearch's own 64 three in ten of the nearest of 20,000 random vectors were missed
_KINDS = {
    "float32": ("f32", "cos"),
    "float16": ("f16", "cos"),
    "int8": ("i8", "cos"),
    "binary": ("b1", "hamming"),
}


@dataclasses.dataclass(frozen=True)
class Match:
    """A vector that was found.

    Attributes:
        name: of its image.
        cosine: with the vector that was looked for.
    """

    name: str
    cosine: float


class VectorIndex:
    """Vectors of one space with their names; `build` or `load` one.

    Attributes:
        origin: of the vectors.
        names: of the vectors, in the order in which they were given.
    """

    def __init__(self, origin: Origin, names: Sequence[str], graph: Index) -> None:
        self.origin, self.names = origin, tuple(names)
        self._graph = graph

    @classmethod
    def build(cls, files: Sequence[Embeddings], advance: Callable[[int], None] = lambda _count: None) -> Self:
        """An index of the vectors of several files.

        Args:
            files: at least one, of one space, dimensions and encoding.
            advance: is told how many more vectors are in it.

        Raises:
            ValueError: files that do not fit each other, or that hold no vector.
        """
        origin = Origin.of(files[0])
        for other in files[1:]:
            check_same_space(origin.space_id, other.space_id)
            if (other.dimensions, other.encoding) != (origin.dimensions, origin.encoding):
                raise ValueError(
                    f"the vectors are {origin.encoding} [{origin.dimensions}] and {other.encoding} "
                    f"[{other.dimensions}]; embed all with the same settings"
                )
        names = [name for file in files for name in file.names]
        if not names:
            raise ValueError("there is no vector to build an index of; embed images first")
        index = cls(origin, names, _graph(origin))
        for file in files:
            index._add(file.vectors, advance)
        return index

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Opens an index; its vectors stay on disk until they are looked at.

        Raises:
            ValueError: the folder is no index, or is damaged.
        """
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            if about.pop("format") != _FORMAT:
                raise ValueError("its format is another one")
            names, origin = about.pop("names"), Origin(**about)
            graph = _graph(origin)
            expected = len(names), graph.ndim
            graph.view(folder / _GRAPH)
            if (len(graph), graph.ndim) != expected:
                raise ValueError(f"its graph has {len(graph)} vectors, its list {len(names)} names")
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder} is no index of clients/search.py ({error}); make one with clients/search.py build"
            ) from error
        return cls(origin, names, graph)

    def __len__(self) -> int:
        return len(self.names)

    def save(self, folder: Path) -> None:
        """Writes the index as a folder, in the place of one that is there.

        It is never there in part. Killed between two renames, it leaves the one before as FOLDER.old.

        Raises:
            ValueError: something else has that name.
            OSError: it cannot be written.
        """
        check_target(folder)
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            about = {"format": _FORMAT, **dataclasses.asdict(self.origin), "names": self.names}
            (partial / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
            self._graph.save(partial / _GRAPH)
            old = folder.with_name(f"{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.replace(old)
            partial.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def search(self, vectors: Array, count: int, *, exact: bool = False) -> list[list[Match]]:
        """The nearest vectors.

        Args:
            vectors: [n, origin.width], encoded as those of the index.
            count: how many to find for each; fewer if there are fewer.
            exact: compare with all, in place of a walk through the graph that may miss some.

        Returns:
            n lists, the nearest first.
        """
        count = min(count, len(self))
        found = self._graph.search(np.ascontiguousarray(vectors, self.origin.dtype), count, exact=exact)
        each = [found] if isinstance(found, Matches) else list(found)
        return [
            [Match(self.names[key], self._cosine(distance)) for key, distance in matches.to_list()] for matches in each
        ]

    def _add(self, vectors: Array, advance: Callable[[int], None]) -> None:
        start = 0
        while start < len(vectors):
            first = len(self._graph)
            alone = first < _ALONE
            chunk = vectors[start : start + (_ALONE - first if alone else _CHUNK)]
            keys = np.arange(first, first + len(chunk))
            self._graph.add(keys, np.ascontiguousarray(chunk, self.origin.dtype), threads=1 if alone else 0)
            start += len(chunk)
            advance(len(chunk))

    def _cosine(self, distance: float) -> float:
        """Of two vectors at a distance of the graph's; of binary ones, of their signs."""
        if self.origin.encoding == "binary":
            return 1 - 2 * distance / self.origin.dimensions
        return 1 - distance


def check_target(folder: Path) -> None:
    """Raises ValueError for a name that no index can be written to."""
    if folder.exists() and not (folder / _ABOUT).is_file():
        raise ValueError(f"{folder} is there and is no index; give another name")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {folder.parent} to write {folder.name} to; make it first")


def _graph(origin: Origin) -> Index:
    dtype, metric = _KINDS[origin.encoding]
    # Of binary vectors usearch counts the bits, those that fill the last byte among them.
    bits = origin.width * 8 if origin.encoding == "binary" else origin.width
    return Index(ndim=bits, metric=metric, dtype=dtype, expansion_search=_WIDTH)
