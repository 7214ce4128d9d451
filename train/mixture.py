"""The training data: sources, each with its share, and which example of which source a position in the run takes.

Between sources and batches on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
All of it is a function of (seed, position): nothing is stored, and a run may begin at any step, on any number of hosts.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from train.sources.example import Source
from train.sources.opening import open_source

Indices = npt.NDArray[np.int64]

LEAST_BLOCK, LARGEST_BLOCK = 1024, 1_000_000
_WEIGHTED = re.compile(r"(\d+(?:\.\d+)?)\*(.+)")


def permuted(places: Indices, epoch: int, examples: int, seed: int) -> Indices:
    """Where the permutation number `epoch` of 0 .. examples - 1 sends some of them."""
    shuffled = tf.random.experimental.index_shuffle(
        places, seed=np.array([seed, epoch], np.int64), max_index=np.int64(examples - 1)
    )
    return shuffled.numpy()


def shuffled(positions: Indices, examples: int, seed: int) -> Indices:
    """The examples at some positions of an endless run, a new permutation each epoch."""
    found = np.empty_like(positions)
    epochs = positions // examples
    # index_shuffle takes a seed for each row only in a shape that its wrapper cannot pad: one call an epoch instead.
    for epoch in np.unique(epochs):
        at = epochs == epoch
        found[at] = permuted(positions[at] % examples, int(epoch), examples, seed)
    return found


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sources, and how many positions each takes of a block.

    In every block of sum(shares) positions a source has exactly its share of them, at places that are shuffled anew in
    each block; so over a run the proportions are exact up to one block. A source goes through its own epochs, each a
    permutation, however often the others go round.

    Attributes:
        sources: one or more.
        shares: positions of each in a block.
    """

    sources: tuple[Source, ...]
    shares: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.shares) or min(self.shares, default=0) < 1:
            raise ValueError(f"{len(self.sources)} sources have the shares {self.shares}; expected 1 or more for each")

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes: the first source's in its order, then what each next one adds.

        An image of one source counts as a negative for the classes that only others have.
        """
        return tuple(dict.fromkeys(label for source in self.sources for label in source.labels))

    @property
    def where_labels(self) -> str:
        """What gives labels to images in sources of these kinds, for a message."""
        return "; or ".join(dict.fromkeys(source.where_labels for source in self.sources))

    def pick(self, positions: Indices, seed: int) -> tuple[Indices, Indices]:
        """Which source, and which example of it, is at some positions of a run: two arrays of their shape."""
        shares = np.array(self.shares, np.int64)
        ends = shares.cumsum()
        slots = shuffled(positions, int(ends[-1]), ~seed)
        sources = np.searchsorted(ends, slots, side="right")
        own = positions // ends[-1] * shares[sources] + slots - (ends - shares)[sources]
        examples = np.empty_like(positions)
        for k in np.unique(sources):
            at = sources == k
            # With one seed for all, two sources of one length would be shuffled alike.
            examples[at] = shuffled(own[at], len(self.sources[k]), seed + int(k))
        return sources, examples

    def instead(self, position: int, source: int, attempt: int, seed: int) -> int:
        """The example that stands in for one that cannot be used, of the same source; attempts count from 1."""
        examples = len(self.sources[source])
        # Negative numbers of permutations are no epoch's.
        return int(permuted(np.array([position % examples]), -attempt, examples, seed + source)[0])

    def names(self, positions: Indices, seed: int) -> list[str]:
        """What is at some positions, by name; where one was bad, the one that was meant to be there."""
        picked = zip(*self.pick(positions, seed), strict=True)
        return [self.sources[source].name(int(example)) for source, example in picked]


def open_mixture(data: Sequence[str]) -> Mixture:
    """Opens what --data names.

    Args:
        data: one or more sources as open_source takes them, each with a weight in front where there are several:
            "0.7*photos", "0.3*tar:shards/*.tar". Weights are decimal, and need not sum to 1.

    Raises:
        ValueError: a weight is missing or not usable, or a source cannot be opened.
    """
    if not data:
        raise ValueError("--data names nothing; expected a folder, tfds:NAME/SPLIT, arrayrecord:FILES or tar:FILES")
    if len(data) == 1 and not _WEIGHTED.fullmatch(data[0]):
        return Mixture((open_source(data[0]),))
    parsed = [_WEIGHTED.fullmatch(item) for item in data]
    missing = [item for item, found in zip(data, parsed, strict=True) if not found]
    if missing:
        raise ValueError(f"--data {missing[0]} has no weight; expected one in front of each source: '0.5*{missing[0]}'")
    shares = _shares([Fraction(found[1]) for found in parsed if found])
    return Mixture(tuple(open_source(found[2]) for found in parsed if found), shares)


def _shares(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers in proportion to the weights, LEAST_BLOCK or more in all: small blocks shuffle little."""
    total = sum(weights)
    if not all(weights):
        raise ValueError("a weight of --data is 0; leave that source out")
    parts = [weight / total for weight in weights]
    block = math.lcm(*(part.denominator for part in parts))
    if block > LARGEST_BLOCK:
        raise ValueError(f"the weights of --data come out even only every {block} images; give them with fewer digits")
    block *= math.ceil(LEAST_BLOCK / block)
    return tuple(int(part * block) for part in parts)
