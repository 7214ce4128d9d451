"""Finds images by a text or by another image, among vectors that clients/embed.py wrote.

    .venv/bin/python clients/embed.py photos --output vectors.npz
    .venv/bin/python clients/search.py build vectors.npz --output photos.index
    .venv/bin/python clients/search.py query photos.index --text "a grey cat on a sofa" --count 5

After the last step of the walk SavedModel -> server -> client -> files of vectors. The index knows the space of its
vectors, and a query of another space is refused. Exits with 1 if the server failed, with 2 if the arguments are wrong.
"""

import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.console
import rich.table
import rich.text
import tyro

from clients import vector_files
from clients.arguments import Server
from clients.image_list import STANDARD
from clients.origin import space_changed
from clients.terminal import bar, progress
from clients.vector_index import Match, VectorIndex, check_target
from vit22b import program
from vit22b.client import Client
from vit22b.embeddings import Embeddings
from vit22b.errors import VitError

BAR = 20


@dataclasses.dataclass(frozen=True)
class Build:
    """Builds an index of files of vectors.

    Attributes:
        vectors: files of clients/embed.py, of one space.
        output: folder to write the index to; an index that is there is replaced.
    """

    vectors: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VECTORS...")]
    output: Path


@dataclasses.dataclass(frozen=True)
class Query:
    """Finds what is nearest to texts and images in an index.

    Attributes:
        index: the folder that build has written.
        text: what is to be found, in words; - reads texts from stdin, one a line.
        image: files of images like those to be found; - reads one image from stdin.
        server: where the model is that the vectors are of.
        count: how many images to find for each.
        exact: compare with every vector, in place of a search that is faster and may miss some.
        json: print JSON in place of tables.
    """

    index: tyro.conf.Positional[Path]
    text: tuple[str, ...] = ()
    image: tuple[Path, ...] = ()
    server: Server = dataclasses.field(default_factory=Server)
    count: int = 10
    exact: bool = False
    json: bool = False

    def check(self) -> None:
        """Raises ValueError, before any work is done, for arguments that ask for nothing."""
        if not self.text and not self.image:
            raise ValueError("nothing is looked for; say what by --text or --image")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; expected at least 1")
        if str(STANDARD) in self.text and STANDARD in self.image:
            raise ValueError("both --text and --image are to come from stdin; name one of them")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for a text or an image, nearest first."""

    query: str
    matches: list[Match]


def main(arguments: Build | Query) -> int:
    """Does the one or the other; the exit code."""
    return build(arguments) if isinstance(arguments, Build) else query(arguments)


def build(arguments: Build) -> int:
    """Reads the files and writes the index."""
    if not arguments.vectors:
        raise ValueError("no file of vectors is given; make one with clients/embed.py --output")
    check_target(arguments.output)
    files = [vector_files.read(path) for path in arguments.vectors]
    with progress(sum(map(len, files)), "vectors") as advance:
        index = VectorIndex.build(files, advance)
    index.save(arguments.output)
    print(f"{len(index)} vectors of space {index.origin.space_id}; written to {arguments.output}")
    return 0


def query(arguments: Query) -> int:
    """Embeds what is looked for, and prints what is near it."""
    arguments.check()
    index = VectorIndex.load(arguments.index)
    with arguments.server.client() as client:
        check_space(index, client, arguments)
        asked = [*embed_texts(client, index, arguments.text), *embed_images(client, index, arguments.image)]
        for found in asked:
            # It may have been replaced since it was described.
            if not index.origin.fits(found):
                remedy = "ask the model that the index is of, or embed the images again and build another index"
                raise space_changed(index.origin.space_id, found, client, remedy)
    answers = [
        Answer(name, matches)
        for found in asked
        for name, matches in zip(
            found.names, index.search(found.vectors, arguments.count, exact=arguments.exact), strict=True
        )
    ]
    if arguments.json:
        print(json.dumps(document(index, answers)))
    else:
        show(answers)
    return 0


def check_space(index: VectorIndex, client: Client, arguments: Query) -> None:
    """Raises ValueError where the model answers vectors of another space than the index's."""
    about = client.describe()
    if about.manifest.space_id != index.origin.space_id:
        raise ValueError(
            f"{arguments.index} holds vectors of space {index.origin.space_id}, and version {about.version} of "
            f"{client.model} at {client.address} answers in space {about.manifest.space_id}; ask the model that they "
            "are of, or embed the images again and build another index"
        )


def embed_texts(client: Client, index: VectorIndex, texts: Sequence[str]) -> list[Embeddings]:
    """The texts' vectors, as the index has its own: a list of one, or empty without texts."""
    lines = [line.strip() for text in texts for line in (sys.stdin if text == str(STANDARD) else [text])]
    named = [line for line in lines if line]
    if not texts:
        return []
    if not named:
        raise ValueError("the text to look for is empty; say what is to be found")
    return [client.embed_texts(named, dimensions=index.origin.dimensions, encoding=index.origin.encoding)]


def embed_images(client: Client, index: VectorIndex, paths: Sequence[Path]) -> list[Embeddings]:
    """The same of images."""
    if not paths:
        return []
    images = [io.BytesIO(sys.stdin.buffer.read()) if path == STANDARD else path for path in paths]
    return [client.embed_images(images, dimensions=index.origin.dimensions, encoding=index.origin.encoding)]


def document(index: VectorIndex, answers: Sequence[Answer]) -> dict[str, Any]:
    """What --json prints."""
    return {
        "space_id": index.origin.space_id,
        "vectors": len(index),
        "answers": [dataclasses.asdict(answer) for answer in answers],
    }


def show(answers: Sequence[Answer]) -> None:
    """Prints a table for each query; a bar is full for the nearest, and as long as the cosine is for the others."""
    console = program.table_console()
    for answer in answers:
        table = rich.table.Table("", "image", "cosine", "", title=rich.text.Text(answer.query), title_justify="left")
        best = max((match.cosine for match in answer.matches), default=0.0)
        for place, match in enumerate(answer.matches, 1):
            drawn = bar(match.cosine / best if best > 0 else 0.0, BAR, console.encoding)
            table.add_row(str(place), rich.text.Text(match.name), f"{match.cosine:.4f}", drawn)
        console.print(table)


Arguments = Annotated[Build, tyro.conf.subcommand("build")] | Annotated[Query, tyro.conf.subcommand("query")]

if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError,))
