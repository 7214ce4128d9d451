"""Text -> token ids: a byte-pair tokenizer that carries its own length and padding rule.

Stands beside the walk: LiT trains it on the captions, the checkpoint and the SavedModel hold its tokenizer.json, and
the client encodes texts with what the served model's `describe` answers. A tokenizer.json is complete: lower-casing,
the end-of-text token, the length and the padding are inside, so no reader can disagree about them.
"""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD = "<|pad|>"
END = "<|endoftext|>"


class Tokenizer:
    """A Hugging Face tokenizer with a fixed length.

    Attributes:
        length: T, tokens of every text: the text tower pools the last position, so all are padded or cut to it.
        pad_id: the id that fills what a text leaves over.
        vocabulary: number of token ids.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        padding, truncation = backend.padding, backend.truncation
        if not padding or not truncation or padding["length"] is None or padding["length"] != truncation["max_length"]:
            raise ValueError(
                f"the tokenizer has padding {padding} and truncation {truncation}; expected both, to one fixed length"
            )
        # A text that spells a special token is a text like another. This switch is not part of tokenizer.json.
        backend.encode_special_tokens = True
        self._backend = backend
        self.length: int = padding["length"]
        self.pad_id: int = padding["pad_id"]
        self.vocabulary: int = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a tokenizer.json.

        Raises:
            ValueError: not a tokenizer.json, or one without a fixed length.
        """
        return cls(parse(text))

    def to_json(self) -> str:
        """The tokenizer as the text of a tokenizer.json."""
        return self._backend.to_str()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Token ids, int32 [b, T]: the text's, the end-of-text token, then padding.

        A text too long loses its end and keeps the end-of-text token.

        Raises:
            ValueError: a bare string, which would be taken for a list of letters.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts is the string {texts!r}; expected a list of strings, for instance [{texts!r}]")
        ids = [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]
        return np.asarray(ids, np.int32).reshape(len(ids), self.length)


def parse(text: str | bytes) -> tokenizers.Tokenizer:
    """The library's tokenizer of a tokenizer.json, of whatever length.

    Raises:
        ValueError: not a tokenizer.json.
    """
    try:
        return tokenizers.Tokenizer.from_str(text if isinstance(text, str) else text.decode())
    except Exception as error:  # the library raises this very class for text that it cannot read
        raise ValueError(f"not a tokenizer.json ({error}): {text[:80]!r}") from error


def train_tokenizer(captions: Iterable[str], vocabulary: int = 1000, length: int = 16) -> Tokenizer:
    """Trains a byte-level BPE tokenizer (Sennrich et al. 2016) on captions; the same captions give the same tokenizer.

    Args:
        captions: what it learns its merges from. Any other text encodes too, byte by byte if need be.
        vocabulary: the largest number of token ids; few captions give fewer. At least 258: the 256 bytes, padding, end
            of text.
        length: T, tokens of a text.

    Raises:
        ValueError: a vocabulary or length too small, or no captions.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + 2
    if vocabulary < smallest:
        raise ValueError(
            f"vocabulary is {vocabulary}; expected at least {smallest}: every byte, padding and end of text"
        )
    if length < 2:
        raise ValueError(f"length is {length}; expected at least 2: a token and the end of text")
    # Sorted, so that the order in which a folder was read cannot break a tie between two merges.
    lines = sorted(captions)
    if not lines:
        raise ValueError(
            "there are no captions to train a tokenizer on; give the images captions, or labels to make them from"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    backend.train_from_iterator(lines, trainer)
    end_id, pad_id = backend.token_to_id(END), backend.token_to_id(PAD)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end_id)])
    backend.enable_truncation(max_length=length)
    backend.enable_padding(length=length, pad_id=pad_id, pad_token=PAD)
    return Tokenizer(backend)
