import json
import subprocess
import sys

import numpy as np
import pytest

from vit22b.prompts import DIGIT_CAPTIONS
from vit22b.tokenizer import Tokenizer, train_tokenizer

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = [caption.format(name) for caption in DIGIT_CAPTIONS for name in NAMES]
END_ID = 1


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CAPTIONS)


@pytest.mark.parametrize(
    "text", ["", "seven", "A photo of the digit seven.", "日本語 🐙 naïve", "x" * 500, "<|pad|> <|endoftext|>"]
)
def test_any_text_has_the_length_and_one_end(tokenizer: Tokenizer, text: str):
    (ids,) = tokenizer.encode([text])
    assert ids.shape == (tokenizer.length,) == (16,)
    assert ids.dtype == np.int32
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocabulary
    (end,) = np.flatnonzero(ids == END_ID)
    assert (ids[end + 1 :] == tokenizer.pad_id).all()
    assert (ids[:end] != tokenizer.pad_id).all()


def test_case_and_blanks_do_not_matter_and_words_do(tokenizer: Tokenizer):
    same = tokenizer.encode(["a photo of the digit two.", "A  PHOTO of\tthe Digit two. ", "a photo of the digit ten."])
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()


def test_a_batch_is_its_texts(tokenizer: Tokenizer):
    together = tokenizer.encode(CAPTIONS)
    np.testing.assert_array_equal(together, np.concatenate([tokenizer.encode([text]) for text in CAPTIONS]))
    assert tokenizer.encode([]).shape == (0, 16)


def test_a_known_caption_takes_one_token_a_word(tokenizer: Tokenizer):
    (ids,) = tokenizer.encode(["a photo of the digit seven."])
    assert np.count_nonzero(ids != tokenizer.pad_id) == 6 + 1 + 1


def test_the_json_is_the_whole_tokenizer(tokenizer: Tokenizer):
    text = tokenizer.to_json()
    for read in (Tokenizer.from_json(text), Tokenizer.from_json(text.encode())):
        np.testing.assert_array_equal(read.encode(CAPTIONS), tokenizer.encode(CAPTIONS))
        assert (read.vocabulary, read.length, read.pad_id) == (tokenizer.vocabulary, tokenizer.length, tokenizer.pad_id)
        assert read.to_json() == text


def test_training_does_not_depend_on_order_or_process(tokenizer: Tokenizer):
    assert train_tokenizer(iter(CAPTIONS[::-1])).to_json() == tokenizer.to_json()
    code = f"from vit22b.tokenizer import train_tokenizer as t; print(t({CAPTIONS!r}).to_json(), end='')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        tokenizer.to_json()
    )


def test_the_vocabulary_is_a_maximum(tokenizer: Tokenizer):
    assert tokenizer.vocabulary < 1000
    small = train_tokenizer(CAPTIONS, vocabulary=280, length=8)
    assert (small.vocabulary, small.length) == (280, 8)
    assert small.encode(["a photo of the digit seven."]).shape == (1, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"vocabulary": 257}, "at least 258"), ({"length": 1}, "at least 2"), ({"captions": []}, "no captions")],
)
def test_what_cannot_be_trained(change, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(**{"captions": CAPTIONS, **change})


def test_what_is_no_tokenizer_of_ours(tokenizer: Tokenizer):
    fields = json.loads(tokenizer.to_json())
    for broken in (
        "",
        "{}",
        "[1]",
        json.dumps({**fields, "padding": None}),
        json.dumps({**fields, "truncation": None}),
    ):
        with pytest.raises(ValueError, match="tokenizer"):
            Tokenizer.from_json(broken)


def test_a_bare_string_is_refused(tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="expected a list"):
        tokenizer.encode("seven")
