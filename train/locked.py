"""The images of locked-image tuning: each is embedded once, by all the devices of a run, and kept beside it.

Between image bytes and batch on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
The embeddings lie in the work directory, named by the space that they are of and by the files, so that a run that
is continued takes its next step at once.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt
from jax.experimental import multihost_utils

from train.feed import local_rows, place
from train.hosts import on_first
from train.run import Run
from train.stop import StopSignal
from vit22b.checkpoint import Trained
from vit22b.embedder import BATCH, embedder
from vit22b.execution import Execution
from vit22b.folder import Record
from vit22b.image import image_batches
from vit22b.program import Interrupted
from vit22b.sharding import batch_sharding
from vit22b.tree import whole
from vit22b.whole_file import write_whole

Floats = npt.NDArray[np.float32]


def embeddings(source: Trained, space_id: str, records: Sequence[Record], run: Run, execution: Execution) -> Floats:
    """The embedding of every image, in order, from the work directory if it is there.

    Args:
        source: the model; only its image tower runs.
        space_id: of it, which takes long to make of a large model.
        records: n images. Who changes a file and neither its name nor its size has to take the embeddings away.
        run: whose work directory it is.
        execution: how the tower runs; has a mesh.

    Returns:
        float32 [n, D], rows of unit length.

    Raises:
        ValueError: a file that cannot be read or decoded; the message names it.
        Interrupted: on SIGTERM or SIGINT; nothing is kept.
    """
    path = run.workdir / f"embeddings-{space_id}-{_digest(records)}.npy"
    # All processes embed together or none does.
    if multihost_utils.broadcast_one_to_all(np.array(path.exists())):
        return np.load(path)
    print(f"embedding {len(records):,} images once")
    with StopSignal() as stop:
        rows = []
        for part in _batches(source, [record.path for record in records], execution):
            rows.append(part)
            if stop.now():
                raise Interrupted(
                    f"stopped while the images were embedded, after about {len(rows) * len(part):,}; the same command "
                    "begins to embed anew",
                    run.stop_code,
                )
    found = np.concatenate(rows)[: len(records)]
    if on_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.save(file, found))
    return found


def _batches(source: Trained, paths: Sequence[Path], execution: Execution) -> Iterator[Floats]:
    """The embeddings batch by batch, each host having read what its devices hold; rows behind the last are of no image.

    Yields:
        float32 [B, D].
    """
    mesh = execution.mesh
    assert mesh is not None
    sharding, preprocess = batch_sharding(mesh), source.description.preprocess
    batch = math.ceil(BATCH * jax.process_count() / mesh.size) * mesh.size
    rows = local_rows(sharding, batch)
    begins = range(0, len(paths), batch)
    own = [paths[begin + row] for begin in begins for row in rows if begin + row < len(paths)]
    # A host may have no image in the last batch, and takes part in it all the same.
    decoded = image_batches(own, preprocess, len(rows)) if own else iter(())
    embed = embedder(source, execution)
    for _ in begins:
        pixels = np.zeros((len(rows), preprocess.resolution, preprocess.resolution, 3), np.uint8)
        if (images := next(decoded, None)) is not None:
            pixels[: len(images)] = images
        yield whole(embed(place({"pixels": pixels}, sharding, batch)["pixels"]))


def _digest(records: Sequence[Record]) -> str:
    files = [(record.name, record.path.stat().st_size) for record in records]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]
