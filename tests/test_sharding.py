import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from tests.towers import HEAD, OTHER, places, random_batch, random_params, training
from train import optimizer
from train.state import abstract_state
from vit22b import model, sharding
from vit22b.config import ModelConfig, text_tower, vit
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess
from vit22b.topology import abstract_mesh
from vit22b.tree import leaves

MESHES = [(1, 8), (2, 4), (4, 2), (8, 1), (1, 1)]
WHOLE_MU = model.abstract(ModelConfig(vit("mu"), classes=10, text=text_tower(vit("mu"), vocabulary=300)))[1]


@pytest.mark.parametrize("shape", MESHES)
def test_every_parameter_of_mu_has_shards_that_make_it_up(shape):
    mesh = sharding.make_mesh(*shape)
    places = leaves(sharding.param_shardings(WHOLE_MU, mesh))
    for name, leaf in leaves(WHOLE_MU).items():
        pieces = {str(index) for index in places[name].devices_indices_map(leaf.shape).values()}
        shard = math.prod(places[name].shard_shape(leaf.shape))
        assert len(pieces) * shard == math.prod(leaf.shape), name
        assert places[name].mesh == mesh


@pytest.mark.parametrize("shape", [(1, 4), (2, 2), (8, 1)])
def test_every_parameter_of_a_model_with_everything_has_a_place(shape):
    shapes = model.abstract(OTHER)[1]
    places = leaves(sharding.param_shardings(shapes, sharding.make_mesh(*shape)))
    for name, leaf in leaves(shapes).items():
        assert len(sharding.logical_axes(name)) == len(leaf.shape), name
        if leaf.ndim > 1 and name.endswith("kernel") and "/blocks/" in name:
            assert math.prod(places[name].shard_shape(leaf.shape)) * math.prod(shape) == math.prod(leaf.shape), name
    biases = {name: places[f"image/blocks/{name}/bias"].spec for name in ("query", "mlp_in", "attention_out", "norm")}
    assert biases == {
        "query": PartitionSpec(None, "model", None),
        "mlp_in": PartitionSpec(None, "model"),
        "attention_out": PartitionSpec(None, None),
        "norm": PartitionSpec(None, None),
    }


@pytest.mark.parametrize("shape", MESHES)
def test_the_kernels_of_a_block_are_split_over_the_whole_mesh(shape):
    places = leaves(sharding.param_shardings(WHOLE_MU, sharding.make_mesh(*shape)))
    kernels = {name: leaf for name, leaf in leaves(WHOLE_MU).items() if "/blocks/" in name and name.endswith("kernel")}
    assert len(kernels) == 2 * 6
    for name, leaf in kernels.items():
        assert math.prod(places[name].shard_shape(leaf.shape)) * math.prod(shape) == math.prod(leaf.shape), name
        assert places[name].shard_shape(leaf.shape)[0] == leaf.shape[0], "layers are read one at a time"


def test_the_axes_have_the_names_of_the_parallel_layers():
    assert sharding.logical_axes("image/blocks/query/kernel") == ("layers", "embed", "heads", "head_dim")
    assert sharding.logical_axes("image/pool/mlp_out/kernel") == ("mlp", "embed")
    mesh = sharding.make_mesh(4, 2)
    assert sharding.named_sharding("head/kernel", (128, 10), mesh).spec == PartitionSpec("data", None)
    assert sharding.batch_sharding(mesh).spec == PartitionSpec("data")
    assert sharding.replicated(mesh).is_fully_replicated


@pytest.mark.parametrize("name", ["image/register_tokens", "image/blocks/query/gain", "subhead/kernels"])
def test_a_parameter_without_a_rule_is_named(name):
    with pytest.raises(ValueError, match=f"no sharding rule for the parameter '{name}'; add its logical axes to"):
        sharding.param_shardings({name: jax.ShapeDtypeStruct((2, 2), np.float32)}, sharding.make_mesh())


def test_a_parameter_of_another_rank_than_its_rule_is_named():
    with pytest.raises(
        ValueError, match=r"head/kernel has shape \(10,\), its rule has the axes \('embed', 'classes'\)"
    ):
        sharding.named_sharding("head/kernel", (10,), sharding.make_mesh())


def test_a_dimension_that_does_not_divide_is_named_with_its_rule_and_the_nearest_mesh():
    shapes = model.abstract(ModelConfig(vit("Ti")))[1]
    query = {"image": {"blocks": {"query": shapes["image"]["blocks"]["query"]}}}
    message = (
        r"image/blocks/query/kernel has shape \(12, 192, 3, 64\); its axis 'heads' of 3 does not divide over 4 devices "
        r"of the mesh axis 'model' \(rule: heads -> model\); the nearest mesh that does is 8x1"
    )
    with pytest.raises(ValueError, match=message):
        sharding.param_shardings(query, sharding.make_mesh(2, 4))
    with pytest.raises(
        ValueError, match=r"axis 'embed' of 100 does not divide over 8 .* nearest mesh that does is 4x2"
    ):
        sharding.named_sharding("head/kernel", (100, 10), sharding.make_mesh(8, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", (1, 1, sharding.RULES)),
        ("data", (8, 1, sharding.REPLICATED)),
        ("fsdp", (8, 1, sharding.RULES)),
        ("2d", (2, 4, sharding.RULES)),
        ("4x2", (4, 2, sharding.RULES)),
    ],
)
def test_a_mesh_has_presets(text, expected):
    assert sharding.parse_mesh(text, devices=8) == expected


@pytest.mark.parametrize("text", ["", "4", "4x", "x2", "4x2x1", "3d"])
def test_a_mesh_that_is_none_is_refused_with_the_presets(text):
    with pytest.raises(ValueError, match=rf"a mesh '{text}'; expected one, data, fsdp, 2d, or DATAxMODEL such as 16x4"):
        sharding.parse_mesh(text, devices=8)


def test_data_parallelism_alone_has_every_parameter_on_every_device():
    shapes = model.abstract(HEAD)[1]
    places = sharding.param_shardings(shapes, sharding.make_mesh(8, 1), sharding.REPLICATED)
    assert all(place.is_fully_replicated for place in jax.tree.leaves(places))


def test_the_nearest_mesh_is_one_for_all_parameters():
    shapes = model.abstract(ModelConfig(vit("Ti")))[1]  # 3 heads, width 192, MLP 768
    with pytest.raises(ValueError, match="the nearest mesh that does is 2x3"):
        sharding.param_shardings(shapes, abstract_mesh(1, 7))


def test_the_table_has_every_parameter_and_the_bytes_of_a_chip():
    shapes = model.abstract(HEAD)[1]
    table = sharding.table(shapes, sharding.make_mesh(4, 2))
    parameter, shape, logical, mesh, size = (list(column.cells) for column in table.columns)
    assert parameter[:-1] == list(leaves(shapes))
    at = parameter.index("image/blocks/mlp_in/kernel")
    assert (shape[at], logical[at], mesh[at]) == ("2x128x512", "layers embed mlp", "- data model")
    assert size[at] == f"{2 * 128 * 512 * 4 // 8:,}"
    assert int(size[-1].replace(",", "")) == sum(int(cell.replace(",", "")) for cell in size[:-1])


def test_too_few_devices_is_an_error_with_the_remedy():
    with pytest.raises(
        ValueError, match=r"4x4 needs 16 devices, there are 8; take .* at most 8, or set XLA_FLAGS=.*=16"
    ):
        sharding.make_mesh(4, 4)


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (-1, -1)])
def test_a_mesh_without_devices_is_an_error(shape):
    with pytest.raises(ValueError, match="has no devices; data and model are 1 or more"):
        sharding.make_mesh(*shape)


@pytest.mark.parametrize(("name", "moments"), [("adafactor", 1), ("adamw", 2)])
def test_a_moment_lies_where_its_parameter_lies(name, moments):
    mesh = sharding.make_mesh(4, 2)
    target = abstract_state(lambda _: random_params(HEAD), optimizer.make(optimizer.Optimizer(name), 10), mesh)
    params = leaves(target.params)
    found = dict.fromkeys(params, 0)
    for path, leaf in jax.tree_util.tree_flatten_with_path(target.opt_state)[0]:
        owner = "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        if owner in params and leaf.shape == params[owner].shape:
            assert leaf.sharding == params[owner].sharding, path
            found[owner] += 1
        else:
            assert leaf.sharding.is_fully_replicated, path
    assert min(found.values()) >= moments


def _one_step(shape, **compute):
    run = training(*shape, **compute)
    batch = jax.device_put(random_batch(), sharding.batch_sharding(run.mesh))
    state, metrics = run.step(run.start(), batch)
    assert places(state) == places(run.target)
    return float(metrics["loss"]), jax.tree.map(np.asarray, leaves(state.params))


@pytest.mark.parametrize(
    ("shape", "compute"),
    [((2, 4), {}), ((4, 2), {}), ((8, 1), {}), ((2, 4), {"parallel": "ring", "split": "images"})],
    ids=str,
)
def test_a_training_step_on_a_mesh_equals_the_one_on_one_device(shape, compute):
    loss, weights = _one_step(shape, **compute)
    expected_loss, expected = _one_step((1, 1))
    start = leaves(random_params(HEAD))
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, value in weights.items():
        assert np.abs(expected[name] - start[name]).max() > 1e-5, f"{name} was not trained"
        bound = 1e-5 * np.abs(expected[name]).max()
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=bound, err_msg=name)


def test_the_gradients_of_a_model_with_everything_equal_those_on_one_device():
    random = np.random.default_rng(3)
    pixels = random.integers(256, size=(8, 28, 28, 3)).astype(np.uint8)
    token_ids = random.integers(OTHER.text.vocabulary, size=(8, OTHER.text.length)).astype(np.int32)
    graph, params = model.abstract(OTHER)[0], random_params(OTHER)

    def gradients(shape):
        mesh = sharding.make_mesh(*shape)
        execution = Execution(mesh=mesh)

        def loss(params, pixels, token_ids):
            network = nnx.merge(graph, params)
            out = network.embed_image(model.normalise(pixels, Preprocess(28)), execution=execution)
            texts = network.embed_text(token_ids, execution)["embedding"]
            return jnp.square(network.similarity(out["embedding"], texts)).mean() + jnp.square(out["logits"]).mean()

        args = (
            jax.device_put(params, sharding.param_shardings(params, mesh)),
            *jax.device_put((pixels, token_ids), sharding.batch_sharding(mesh)),
        )
        return jax.tree.map(np.asarray, leaves(jax.jit(jax.grad(loss)).lower(*args).compile()(*args)))

    # What is added to every key alike is added to all logits of a query, and the softmax knows nothing of it.
    none = {"image/blocks/key_norm/bias", "text/blocks/key_norm/bias", "image/pool/key/bias"}
    expected, largest = gradients((1, 1)), {}
    for name, gradient in gradients((2, 4)).items():
        largest[name] = np.abs(expected[name]).max()
        bound = 1e-5 * (1 if name in none else largest[name])
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=bound, err_msg=name)
    assert {name for name, size in largest.items() if size < 1e-6} == none
