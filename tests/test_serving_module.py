"""What the exported graph is made of; that it computes what JAX does is shown in test_walk.py."""

import concurrent.futures

import jax
import numpy as np
import pytest
import tensorflow as tf

from export.batching import Batching
from export.serving_module import ServingModule
from export.towers import towers
from export.variables import from_params
from tests.towers import PREPROCESS, ZERO_SHOT, random_params
from vit22b.description import Description
from vit22b.difference import difference
from vit22b.tree import parameter_count

DESCRIPTION = Description(ZERO_SHOT, PREPROCESS, tokenizer="{}")
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), np.uint8)


@pytest.fixture(scope="module")
def plain():
    return ServingModule(DESCRIPTION, from_params(random_params(ZERO_SHOT), DESCRIPTION), Batching("none"), ("cpu",))


@pytest.fixture(scope="module")
def batching():
    wait = Batching(sizes=(1, 4), timeout_micros=300_000)
    return ServingModule(DESCRIPTION, from_params(random_params(ZERO_SHOT), DESCRIPTION), wait, ("cpu",))


def nodes(module, tower="embed"):
    graph = module.towers[tower].get_concrete_function().graph.as_graph_def()
    return [*graph.node, *(node for function in graph.library.function for node in function.node_def)]


def test_without_batching_any_size_runs_by_itself(plain):
    assert not [n for n in nodes(plain) if n.op == "BatchFunction"]
    assert plain.towers["embed"](PIXELS)["embedding"].shape == (5, 128)


def test_the_batching_op_has_the_sizes_and_the_wait_that_were_asked_for(batching):
    (op,) = [n for n in nodes(batching) if n.op == "BatchFunction"]
    assert list(op.attr["allowed_batch_sizes"].list.i) == [1, 4]
    assert op.attr["max_batch_size"].i == 4
    assert op.attr["batch_timeout_micros"].i == 300_000
    assert op.attr["max_enqueued_batches"].i == Batching.queue


def test_towers_have_queues_of_their_own(batching):
    """Two of one name would share a queue, and run each other's function."""
    names = [
        n.attr["shared_name"].s for tower in batching.towers for n in nodes(batching, tower) if n.op == "BatchFunction"
    ]
    assert len(set(names)) == len(names) == 4


def test_concurrent_requests_are_joined_and_each_gets_its_own_answer(batching, plain):
    expected = plain.towers["embed"](PIXELS)["embedding"].numpy()
    batching.towers["embed"](PIXELS[:4])  # compiles
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: batching.towers["embed"](PIXELS[i : i + 1])["embedding"].numpy(), range(4)))
    np.testing.assert_allclose(np.concatenate(answers), expected[:4], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_smaller_weights_answer_in_the_savedmodel_as_in_jax(weights, tmp_path):
    """float32 is shown in test_walk.py. The two round alike, but for sums in another order."""
    stored = from_params(random_params(ZERO_SHOT), DESCRIPTION, weights)
    module = ServingModule(DESCRIPTION, stored, Batching("none"), ("cpu",))
    tf.saved_model.save(module, str(tmp_path), signatures=module.signatures("{}"))
    signatures = tf.saved_model.load(str(tmp_path)).signatures
    params = jax.tree.map(lambda variable: variable.numpy(), stored.tree)
    made = towers(DESCRIPTION, weights)
    pixels = np.random.default_rng(1).integers(0, 256, (8, 28, 28, 3), np.uint8)
    ids = np.random.default_rng(2).integers(0, 300, (8, 16), np.int32)
    for size in (1, 3, 8):
        for name, tower, inputs in (
            ("embed_pixels", "embed", {"pixels": pixels[:size]}),
            ("logits_pixels", "logits", {"pixels": pixels[:size]}),
            ("embed_text", "text", {"token_ids": ids[:size]}),
        ):
            (value,) = inputs.values()
            expected = jax.jit(made[tower].function)(params, value)
            got = {key: answer.numpy() for key, answer in signatures[name](**inputs).items()}
            found = difference({key: np.asarray(answer) for key, answer in expected.items()}, got, 2**-7)
            assert found.problem == "", (name, size)


def test_weights_are_no_constants(plain):
    """The largest node is the lowered program, which is smaller than any kernel of the tower."""
    largest = max(node.ByteSize() for node in nodes(plain))
    assert largest < 4 * 128 * 512 < 4 * parameter_count(random_params(ZERO_SHOT))


def test_the_signatures_answer_the_manifest_they_were_given(plain):
    table = plain.signatures('{"a": 1}')
    described = table["describe"]()
    assert described["manifest"].numpy() == b'{"a": 1}'
    assert described["tokenizer"].numpy() == b"{}"
