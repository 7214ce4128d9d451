"""Where the image stands in a row of the input: a column of Parquet, or a feature of a tf.train.Example.

First step of clients/bulk_embed.py, beside the walk SavedModel -> server -> client. Decided once, by the first file
that tells its columns.
"""

from collections.abc import Sequence

from clients.bulk.job import Kind
from clients.bulk.kinds import FORMS


def choose_columns(kind: Kind, files: Sequence[str], column: str | None, key_column: str | None) -> tuple[str, str]:
    """The column that has the image or its URI, and the one that has its name, "" where its place is its name.

    Both are "" for a kind without columns.

    Args:
        kind: of the input.
        files: their paths.
        column, key_column: what was asked for; None for the usual names.

    Raises:
        ValueError: there is no such column, or none that can be an image.
    """
    form = FORMS[kind]
    if form.columns is None:
        if column or key_column:
            raise ValueError(f"the column {column or key_column} is given for {kind}, which have none; leave it out")
        return "", ""
    told = ((file, form.columns(file)) for file in files)
    first, held = next(((file, found) for file, found in told if found is not None), ("", None))
    if held is None:
        return column or form.usual[0], key_column or ""
    chosen = column or next((name for name in form.usual if name in held), form.usual[0])
    for name in (chosen, key_column):
        if name and name not in held:
            raise ValueError(f"{first} has no {name}, it has {', '.join(sorted(held)) or 'nothing'}; say --column")
    if not held[chosen]:
        raise ValueError(f"{chosen} in {first} has neither text nor bytes; name the image's column by --column")
    return chosen, key_column or ""
