import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import linen_vit, train_step
from benchmarks.train_step import Settings
from tests import towers
from train import optimizer
from vit22b import model
from vit22b.tree import leaves, parameter_count


def network(parallel):
    return linen_vit.ViT(towers.IMAGE, towers.HEAD.classes, parallel)


def rival_state(parallel):
    return linen_vit.init_state(network(parallel), optimizer.make(towers.SETTINGS, towers.STEPS), seed=0)


def as_linen(params):
    """Our parameters under the names of the Linen ViT with parallel blocks."""
    image, patch = params["image"], towers.IMAGE.patch

    def attention(part):
        kernels = {name: {"kernel": part[name]["kernel"]} for name in ("query", "key", "value")}
        norms = {name: part[name] for name in ("query_norm", "key_norm") if name in part}
        return {**kernels, **norms, "out": {"kernel": part["attention_out"]["kernel"]}}

    def mlp(part):
        return {"in": part["mlp_in"], "out": {"kernel": part["mlp_out"]["kernel"], "bias": part["out"]["bias"]}}

    def block(layer):
        part = jax.tree.map(lambda leaf: leaf[layer], image["blocks"])
        return {"norm": part["norm"], "attention": attention(part), "mlp": mlp(part)}

    pool, embedding = image["pool"], image["patch_projection"]
    return {
        "embedding": {"kernel": embedding["kernel"].reshape(patch, patch, 3, -1), "bias": embedding["bias"]},
        "pos_embedding": image["position_embedding"][None],
        **{f"block_{layer}": block(layer) for layer in range(towers.IMAGE.depth)},
        "norm": image["final_norm"],
        "pool": {
            "probe": pool["probe"][None, None],
            "attention": attention(pool),
            "norm": pool["norm"],
            "mlp": mlp(pool),
        },
        "head": params["head"],
    }


def test_the_rival_with_our_parameters_and_parallel_blocks_is_our_model():
    params, graph = towers.random_params(towers.HEAD), model.abstract(towers.HEAD)[0]
    images = model.normalise(jnp.asarray(towers.random_batch()["pixels"]), towers.PREPROCESS)
    renamed = as_linen(params)
    shapes = jax.tree.map(np.shape, rival_state(parallel=True).params)
    assert jax.tree.map(np.shape, renamed) == shapes
    theirs = jax.jit(network(parallel=True).apply)({"params": renamed}, images)
    ours = jax.jit(lambda params: nnx.merge(graph, params).embed_image(images)["logits"])(params)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-4)


def test_sequential_blocks_have_one_norm_more_each_and_nothing_else():
    ours = parameter_count(model.abstract(towers.HEAD)[1])
    assert parameter_count(rival_state(parallel=True).params) == ours
    image = towers.IMAGE
    assert parameter_count(rival_state(parallel=False).params) == ours + image.depth * image.width


def test_the_rival_learns_its_batch():
    # Its head starts at zero, as ours does: the body has a gradient from the second step on.
    state, batch = rival_state(parallel=False), jax.device_put(towers.random_batch())
    before = {name: np.asarray(leaf) for name, leaf in leaves(state.params).items()}
    losses = []
    for _ in range(3):
        state, loss = linen_vit.step(state, batch)
        losses.append(float(loss))
    assert losses[2] < losses[1] < losses[0]
    unchanged = [name for name, leaf in leaves(state.params).items() if (before[name] == np.asarray(leaf)).all()]
    assert unchanged == []


def test_a_ratio_is_the_median_over_rounds_of_rates_in_the_same_round():
    rates = [{"a": 1.0, "b": 2.0}, {"a": 30.0, "b": 10.0}, {"a": 4.0, "b": 5.0}]
    found = train_step.summary(rates, {"a_to_b": ("a", "b")})
    assert found == {
        "a_images_per_second": 4.0,
        "b_images_per_second": 5.0,
        "a_to_b": 0.8,
        "a_to_b_by_round": [0.5, 3.0, 0.8],
    }


@pytest.mark.slow
def test_the_report_has_every_rate_and_ratio(tmp_path):
    output = tmp_path / "bench" / "train_step.json"
    train_step.main(Settings(output, size="mu", batch=2, classes=10, steps=1, rounds=1, save_every=2))
    report = json.loads(output.read_text())
    for above, below, ratio in (
        ("ours", "linen", "ours_to_linen"),
        ("linen_parallel", "linen", "parallel_to_sequential"),
        ("saving", "not_saving", "saving_to_not_saving"),
    ):
        rates = [report[f"{name}_images_per_second"] for name in (above, below)]
        # With one round a ratio of medians is the median of the ratios, but for the rounding.
        assert report[ratio] == pytest.approx(rates[0] / rates[1], rel=0.01)
        assert report[f"{ratio}_by_round"] == [report[ratio]]
    assert report["save_seconds"] > 0
    assert (report["size"], report["batch"], report["classes"], report["save_every"]) == ("mu", 2, 10, 2)


def test_a_count_below_one_is_refused():
    with pytest.raises(ValueError, match="--rounds is 0; expected 1 or more"):
        Settings(rounds=0)
