from fractions import Fraction

import numpy as np
import pytest

from train.mixture import Mixture, _shares, open_mixture
from train.sources.folders import FolderSource
from vit22b.folder import Folder, Record


def source(tmp_path, name, count, labels=("a",)):
    """Records alone: which one is taken when does not depend on what is in it."""
    return FolderSource(
        Folder(tuple(Record(tmp_path / f"{name}{i}", f"{name}{i}", labels) for i in range(count)), labels)
    )


@pytest.fixture
def mixture(tmp_path):
    return Mixture(
        (source(tmp_path, "a", 1000), source(tmp_path, "b", 30), source(tmp_path, "c", 1000)), (600, 100, 300)
    )


def test_a_source_has_its_share_of_every_block(mixture):
    sources, _ = mixture.pick(np.arange(5000), seed=3)
    for block in sources.reshape(5, 1000):
        np.testing.assert_array_equal(np.bincount(block), mixture.shares)


def test_blocks_are_shuffled_each_in_its_own_way(mixture):
    blocks = mixture.pick(np.arange(3000), seed=3)[0].reshape(3, 1000)
    assert (blocks[0] != blocks[1]).sum() > 300
    assert (blocks[1] != blocks[2]).sum() > 300
    # No part of a block is one source's alone.
    assert (np.bincount(blocks[0, :100], minlength=3) > 0).all()


def test_each_source_goes_through_epochs_of_its_own(mixture):
    """At a block's end each has given every example equally often, up to the epoch that it is in."""
    sources, examples = mixture.pick(np.arange(10_000), seed=3)
    for k, (least, most) in enumerate([(6, 6), (33, 34), (3, 3)]):
        counts = np.bincount(examples[sources == k], minlength=len(mixture.sources[k]))
        assert (counts.min(), counts.max()) == (least, most)


def test_sources_of_one_length_are_shuffled_differently(tmp_path):
    """In blocks of two each source goes through its epoch in step with the other."""
    twins = Mixture((source(tmp_path, "a", 1000), source(tmp_path, "b", 1000)), (1, 1))
    sources, examples = twins.pick(np.arange(2000), seed=3)
    assert (examples[sources == 0] != examples[sources == 1]).mean() > 0.9


def test_what_a_position_takes_does_not_depend_on_its_neighbours(mixture):
    sources, examples = mixture.pick(np.arange(4000), seed=3)
    some = np.random.default_rng(0).choice(4000, 50)
    for k, i in ((some, slice(None)), (some[:1], slice(1))):
        found = mixture.pick(k, seed=3)
        np.testing.assert_array_equal(found[0][i], sources[k])
        np.testing.assert_array_equal(found[1][i], examples[k])
    assert (mixture.pick(np.arange(4000), seed=4)[0] != sources).mean() > 0.3


def test_the_names_are_those_of_the_examples(mixture, tmp_path):
    positions = np.arange(20)
    picked = zip(*mixture.pick(positions, seed=3), strict=True)
    assert mixture.names(positions, seed=3) == [
        str(tmp_path / f"{'abc'[source]}{example}") for source, example in picked
    ]


def test_what_stands_in_is_of_the_same_source_and_another_each_time(mixture):
    found = [mixture.instead(1234, 1, attempt, seed=3) for attempt in range(1, 16)]
    assert all(0 <= i < 30 for i in found)
    assert len(set(found)) > 5
    assert found == [mixture.instead(1234, 1, attempt, seed=3) for attempt in range(1, 16)]


def test_classes_are_the_first_sources_then_what_others_add(tmp_path):
    sources = (source(tmp_path, "a", 1, ("dog", "cat")), source(tmp_path, "b", 1, ("ant", "cat")))
    assert Mixture(sources, (1, 1)).labels == ("dog", "cat", "ant")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (("0.7", "0.3"), (721, 309)),
        (("1", "1", "1"), (342, 342, 342)),
        (("2", "0.001"), (2000, 1)),
        (("5",), (1024,)),
    ],
)
def test_shares_are_exactly_in_the_proportion_of_the_weights(weights, expected):
    assert _shares([Fraction(weight) for weight in weights]) == expected


def folders(tmp_path, names):
    for name in names:
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / f"{name}.png").write_bytes(b"not opened here")
    return [str(tmp_path / name) for name in names]


def test_weights_stand_in_front_of_sources(tmp_path):
    a, b = folders(tmp_path, "ab")
    mixture = open_mixture([f"0.75*{a}", f"0.25*{b}"])
    assert [source.name(0) for source in mixture.sources] == [f"{a}/cat/a.png", f"{b}/cat/b.png"]
    assert mixture.shares == (768, 256)
    assert len(open_mixture([a]).sources) == 1
    assert open_mixture([a]).shares == (1,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "--data names nothing; expected a folder, tfds:NAME/SPLIT"),
        (["1*{a}", "{b}"], r"--data .*b has no weight; expected one in front of each source: '0\.5\*.*b'"),
        (["0*{a}", "1*{b}"], "a weight of --data is 0; leave that source out"),
        (["0.12345678*{a}", "0.7654321*{b}"], "come out even only every .* images; give them with fewer digits"),
        (["1*{a}", "1*nowhere"], "nowhere is missing"),
    ],
)
def test_data_that_cannot_be_is_an_error(tmp_path, data, message):
    a, b = folders(tmp_path, "ab")
    with pytest.raises(ValueError, match=message):
        open_mixture([item.format(a=a, b=b) for item in data])


def test_shares_that_do_not_fit_the_sources_are_an_error(tmp_path):
    for shares in ((1, 1), (0,), ()):
        with pytest.raises(ValueError, match=r"1 sources have the shares .*; expected 1 or more for each"):
            Mixture((source(tmp_path, "a", 3),), shares)
