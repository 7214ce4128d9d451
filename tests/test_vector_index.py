from pathlib import Path

import numpy as np
import pytest

from clients.vector_index import VectorIndex
from vit22b import encodings
from vit22b.embeddings import Embeddings
from vit22b.encodings import Encoding

DIMENSIONS = 20  # no multiple of eight
random = np.random.default_rng(0)
VECTORS = encodings.unit(random.normal(size=(400, DIMENSIONS)).astype(np.float32))
QUERIES = encodings.unit(random.normal(size=(25, DIMENSIONS)).astype(np.float32))


def embeddings(
    vectors=VECTORS, encoding: Encoding = "float32", space_id: str = "space-one", first: int = 0
) -> Embeddings:
    names = tuple(f"{first + place}.png" for place in range(len(vectors)))
    encoded = encodings.encode(vectors, encoding)
    return Embeddings(encoded, names, tuple(range(len(names))), space_id, 1, (), vectors.shape[1], encoding)


def best(cosines: np.ndarray, count: int) -> list[list[str]]:
    return [[f"{place}.png" for place in row] for row in np.argsort(-cosines, axis=1, kind="stable")[:, :count]]


@pytest.mark.parametrize(
    ("encoding", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 1e-2), ("binary", 1e-6)]
)
def test_the_graph_and_the_exact_search_agree(tmp_path: Path, encoding: Encoding, tolerance: float):
    files, asked = embeddings(encoding=encoding), embeddings(QUERIES, encoding)
    VectorIndex.build([files]).save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index")
    cosines = asked.cosine(files)
    exact = index.search(asked.vectors, 10, exact=True)
    found = index.search(asked.vectors, 10)
    for row, matches in zip(cosines, exact, strict=True):
        np.testing.assert_allclose([match.cosine for match in matches], np.sort(row)[::-1][:10], atol=tolerance)
        np.testing.assert_allclose(
            [match.cosine for match in matches], [row[int(match.name[:-4])] for match in matches], atol=tolerance
        )
    if encoding == "float32":
        assert [[match.name for match in matches] for matches in exact] == best(cosines, 10)
    # By the cosines, since binary vectors have many that are equally near.
    ends = [(one[-1].cosine, other[-1].cosine) for one, other in zip(found, exact, strict=True)]
    assert np.mean([one >= other - 1e-6 for one, other in ends]) > 0.95


def test_a_vector_finds_itself(tmp_path: Path):
    VectorIndex.build([embeddings(VECTORS[:300]), embeddings(VECTORS[300:], first=300)]).save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index")
    assert len(index) == 400
    (matches,) = index.search(VECTORS[350:351], 1)
    assert (matches[0].name, matches[0].cosine) == ("350.png", pytest.approx(1, abs=1e-6))


def test_no_more_is_found_than_there_is():
    (matches,) = VectorIndex.build([embeddings(VECTORS[:3])]).search(QUERIES[:1], 10)
    assert len(matches) == 3


def test_files_that_do_not_fit_each_other():
    with pytest.raises(ValueError, match="two spaces, space-one and space-two"):
        VectorIndex.build([embeddings(), embeddings(space_id="space-two")])
    with pytest.raises(ValueError, match=r"float32 \[20\] and int8 \[20\]"):
        VectorIndex.build([embeddings(), embeddings(encoding="int8")])
    with pytest.raises(ValueError, match="no vector"):
        VectorIndex.build([embeddings(VECTORS[:0])])


def test_an_index_is_replaced_and_nothing_else_is(tmp_path: Path):
    target = tmp_path / "index"
    VectorIndex.build([embeddings()]).save(target)
    VectorIndex.build([embeddings(VECTORS[:5])]).save(target)
    assert len(VectorIndex.load(target)) == 5
    assert list(tmp_path.iterdir()) == [target]
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="photos is there and is no index"):
        VectorIndex.build([embeddings()]).save(tmp_path / "photos")


def test_what_is_no_index_is_named(tmp_path: Path):
    target = tmp_path / "index"
    with pytest.raises(ValueError, match=r"index is no index of clients/search\.py .*make one with"):
        VectorIndex.load(target)
    VectorIndex.build([embeddings()]).save(target)
    graph = target / "graph.usearch"
    whole = graph.read_bytes()
    VectorIndex.build([embeddings(VECTORS[:5])]).save(target)
    graph.write_bytes(whole)
    with pytest.raises(ValueError, match="its graph has 400 vectors, its list 5 names"):
        VectorIndex.load(target)
    graph.write_bytes(whole[:20])
    with pytest.raises(ValueError, match="is no index"):
        VectorIndex.load(target)
