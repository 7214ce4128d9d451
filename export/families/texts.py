"""The tokenizer that goes with a text tower: a tokenizer.json, given the length and the padding that the tower expects.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Other implementations keep length and padding in code or in files beside it; ours has them inside (vit22b/tokenizer.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from export.families.weights import read_json
from vit22b.config import TextConfig
from vit22b.tokenizer import Tokenizer, parse

_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def read_tokenizer(file: Path, text: TextConfig) -> str:
    """Reads a tokenizer for a tower.

    Args:
        file: tokenizer.json; the token for padding, and the side that is padded and cut, are taken from the files
            that lie beside it, else from itself.
        text: the tower, whose length every text gets.

    Returns:
        The text of a tokenizer.json of fixed length.

    Raises:
        ValueError: there is none, it is damaged, it has no token for padding, or more tokens than the tower.
    """
    if not file.is_file():
        raise ValueError(
            f"{file} is missing: without it nobody could make token ids for the text tower; copy it there from where "
            "the weights are from, or name it with --tokenizer"
        )
    try:
        backend = parse(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is {error}") from error
    beside = {name: read_json(file.parent / name) for name in _FILES if (file.parent / name).is_file()}
    pad = next(_pad_tokens(beside.values(), backend), None)
    if pad is None:
        raise ValueError(f"{file} names no token for padding, nor does {' or '.join(_FILES)} beside it (pad_token)")
    pad_id = backend.token_to_id(pad)
    if pad_id is None:
        raise ValueError(f"{file} has no token {pad!r}, which is said to be for padding")
    told = beside.get("tokenizer_config.json", {})
    padded = told.get("padding_side") or (backend.padding or {}).get("direction", "right")
    cut = told.get("truncation_side") or (backend.truncation or {}).get("direction", "right")
    backend.enable_truncation(max_length=text.length, direction=cut)
    backend.enable_padding(length=text.length, pad_id=pad_id, pad_token=pad, direction=padded)
    tokenizer = Tokenizer(backend)
    if tokenizer.vocabulary > text.vocabulary:
        raise ValueError(f"{file} has {tokenizer.vocabulary} tokens, the text tower {text.vocabulary}; name its own")
    return tokenizer.to_json()


def _pad_tokens(files: Iterable[Mapping[str, Any]], backend: tokenizers.Tokenizer) -> Iterator[str]:
    for values in files:
        if token := _content(values.get("pad_token")):
            yield token
    if backend.padding:
        yield backend.padding["pad_token"]


def _content(token: Any) -> str | None:
    """A special token as a string; some files have an object around it."""
    return token.get("content") if isinstance(token, dict) else token
