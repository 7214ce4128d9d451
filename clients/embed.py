"""Embeds images with a served model.

    .venv/bin/python clients/embed.py cat.jpg dog.png --output vectors.npz
    .venv/bin/python clients/embed.py photos/ --address=localhost:8500 --model=vit22b --json

The last step of the walk: a SavedModel behind a server in, vectors out. The .npz holds `vectors` (float32 [n, D], of
unit length), `names` [n], `space_id` and `version`; only vectors of one space_id can be compared. Exits with 1 if an
image was left out or the server failed, with 2 if the arguments are wrong.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import rich.console
import rich.table
import tyro

from clients.arguments import Server, check_output, find_images, report_failures, write_whole
from vit22b import program
from vit22b.embeddings import Embeddings
from vit22b.errors import VitError

ROWS = 10


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Embeds images with a served model.

    Attributes:
        images: files, or folders of them.
        server: where the model is.
        output: file to write, NAME.npz.
        json: print JSON in place of a table. It holds the vectors unless they go to a file.
        on_error: what an image that cannot be decoded does. skip: it is named and the others are written; raise: none
            is.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    server: Server = dataclasses.field(default_factory=Server)
    output: Path | None = None
    json: bool = False
    on_error: Literal["skip", "raise"] = "skip"


def main(arguments: Arguments) -> int:
    """Embeds, writes and prints; the exit code."""
    check_output(arguments.output, ".npz")
    records = find_images(arguments.images)
    with arguments.server.client() as client, rich.console.Console(stderr=True).status(f"{len(records)} images"):
        found = client.embed_images([record.path for record in records], on_error=arguments.on_error)
    if arguments.output:
        write(found, arguments.output)
    if arguments.json:
        json.dump(document(found, vectors=arguments.output is None), sys.stdout)
        print()
    else:
        show(found, arguments.output)
    report_failures(found.failures)
    return 1 if found.failures else 0


def write(found: Embeddings, path: Path) -> None:
    """Writes vectors, names, space_id and version."""
    names = np.array(found.names, str)
    arrays = {"vectors": found.vectors, "names": names, "space_id": found.space_id, "version": found.version}
    write_whole(path, lambda file: np.savez(file, **arrays))


def document(found: Embeddings, *, vectors: bool) -> dict[str, Any]:
    """What --json prints."""
    return {
        "space_id": found.space_id,
        "version": found.version,
        "width": found.vectors.shape[1],
        "names": found.names,
        "failures": [dataclasses.asdict(failure) for failure in found.failures],
        **({"vectors": found.vectors.tolist()} if vectors else {}),
    }


def show(found: Embeddings, path: Path | None) -> None:
    """Prints a table of the first vectors, and what they are."""
    console = rich.console.Console()
    width = found.vectors.shape[1]
    table = rich.table.Table("image", f"vector, the first 4 of {width} numbers")
    for name, vector in zip(found.names[:ROWS], found.vectors, strict=False):
        table.add_row(rich.text.Text(name), "  ".join(f"{number:+.4f}" for number in vector[:4]))
    console.print(table)
    more = f", {ROWS} of them shown" if len(found) > ROWS else ""
    target = f"; written to {path}" if path else ""
    summary = f"{len(found)} vectors{more}; space {found.space_id}, version {found.version}{target}"
    console.print(summary, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError,))
