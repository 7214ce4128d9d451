"""The target TPU: what an export for TPU hosts has that another has not, and whether the model fits one chip.

Beside SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The Cloud
TPU Inference Converter makes a TPU's version of it: it places functions on the chip by their aliases and puts batching
around them (docs/tpu-serving.md). So our own batching is left out, and the converter's options are written into the
version's assets.extra, which servers pass over.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from tensorflow.core.protobuf import saved_model_pb2

from export import apart, tpu_memory, xla_modules
from export.batching import Batching
from export.version_folder import renew_fingerprint
from vit22b import quantised, topology
from vit22b.chips import CHIPS, GIB, tpu
from vit22b.config import ModelConfig
from vit22b.quantised import WeightType

OPTIONS_FILE = "assets.extra/converter_options.textproto"


@dataclasses.dataclass(frozen=True)
class Target:
    """What an export is made for."""

    target: Literal["any", "tpu"] = "any"
    """any: every server that runs the graph. tpu: the Cloud TPU Inference Converter, which makes a TPU's version of it;
    batching is left to the converter, whose options are written."""
    chip: str | None = None
    """With --target tpu, which needs it, the chip that will serve: v4, v5e, v5p or v6e. A model that does not fit one
    is refused."""

    def __post_init__(self) -> None:
        if self.chip is None:
            if self.target == "tpu":
                names = ", ".join(chip.name for chip in CHIPS.values() if chip.torus)
                raise ValueError(f"--target tpu needs --chip, the one that will serve: {names}")
            return
        tpu(self.chip)
        if self.target != "tpu":
            raise ValueError(f"--chip {self.chip} is of TPUs; add --target tpu, or leave it out")

    def batching(self, batching: Batching) -> Batching:
        """The batching of the graph for this target."""
        return dataclasses.replace(batching, kind="none") if self.target == "tpu" else batching

    def require_fit(self, config: ModelConfig, weights: WeightType, sizes: tuple[int, ...]) -> None:
        """Refuses, before anything is read, what cannot fit the chip: by the closed form.

        With libtpu only the weights count here, since the compiler will be asked for the rest.

        Raises:
            ValueError: it does not fit; the message has what does.
        """
        if self.chip is None:
            return
        limit = tpu(self.chip).hbm_bytes
        stored = quantised.weight_bytes(config, weights)
        exact = topology.has_compiler()
        good = [size for size in sizes if stored + (0 if exact else activation_bytes(config, weights, size)) <= limit]
        if good == list(sizes):
            return
        by = "by the closed form (libtpu, which would tell exactly, is not installed)"
        if good:
            raise ValueError(
                f"at --batch_sizes {_words(sizes)} the model does not fit one {self.chip} of {limit / GIB:.2f} GiB, "
                f"{by}; those that fit are {_words(good)}"
            )
        if stored <= limit:
            raise ValueError(
                f"{stored / GIB:.1f} GiB of {weights} weights fit one {self.chip} of {limit / GIB:.2f} GiB, and a "
                f"run at none of --batch_sizes {_words(sizes)} does, {by}; take smaller ones, or another type or chip: "
                f"{_remedy(config)}"
            )
        raise ValueError(
            f"{stored / GIB:.1f} GiB of {weights} weights do not fit one {self.chip} of {limit / GIB:.2f} GiB"
            f"{'' if exact else ', ' + by}; {_remedy(config)}"
        )

    def prove(self, version: Path) -> None:
        """Asks the TPU's compiler about a version that was written, where libtpu is installed.

        In a process of its own, since the compiler does not give back the memory that it takes.

        Raises:
            ValueError: it does not fit the chip; the process has printed what does.
            ChildProcessError: the compiler was not asked to the end; the process has said why.
        """
        if self.chip is None or not topology.has_compiler():
            return
        code = apart.run("tpu_memory.py", str(version), "--chips", self.chip)
        if code == tpu_memory.DOES_NOT_FIT:
            raise ValueError(f"the version does not fit one {self.chip} (see above), so it was not written")
        if code:
            raise ChildProcessError("the TPU compiler could not be asked (see above), so the version was not written")

    def write(self, version: Path, batching: Batching) -> None:
        """Writes the converter's options into a version, and makes its function aliases what the converter looks for.

        Args:
            version: its folder.
            batching: the allowed sizes and the waits that the converter's batching shall have.
        """
        if self.target != "tpu":
            return
        keep_living_aliases(version)
        path = version / OPTIONS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(converter_options(xla_modules.aliases(version), batching))


def converter_options(aliases: Iterable[str], batching: Batching) -> str:
    """The converter's options, as protocol buffer text.

    Args:
        aliases: of the functions that shall run on the TPU.
        batching: for all of them.
    """
    functions = "".join(f'tpu_functions {{ function_alias: "{alias}" }}\n' for alias in sorted(aliases))
    sizes = "".join(f"  allowed_batch_sizes: {size}\n" for size in batching.sizes)
    # Fields: ConverterOptionsV2 in github.com/google/orbax, export/orbax/export/bfloat16_toolkit/
    # converter_options_v2.proto. bfloat16 is off for all weights: it is off by default for programs that JAX lowered,
    # and vectors of float32 weights that a converter had rounded would be of another space than the manifest says.
    return (
        '# For the Cloud TPU Inference Converter: --converter_options_string="$(cat this file)".\n'
        f"{functions}"
        "batch_options {\n"
        f"  num_batch_threads: {batching.threads}\n"
        f"  max_batch_size: {batching.sizes[-1]}\n"
        f"  batch_timeout_micros: {batching.timeout_micros}\n"
        f"{sizes}"
        f"  max_enqueued_batches: {batching.queue}\n"
        "}\n"
        "bfloat16_optimization: DISABLED\n"
    )


def keep_living_aliases(version: Path) -> None:
    """Takes the aliases of functions that are not in the graph out of a SavedModel.

    TensorFlow lists every trace of a function, also those made before the saving one, which nothing calls.
    """
    path = version / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in saved.meta_graphs:
        there = {function.signature.name for function in graph.graph_def.library.function}
        for name in set(graph.meta_info_def.function_aliases) - there:
            del graph.meta_info_def.function_aliases[name]
    path.write_bytes(saved.SerializeToString(deterministic=True))
    renew_fingerprint(version)


def activation_bytes(config: ModelConfig, weights: WeightType, batch: int) -> int:
    """What a run of the image tower holds beside the weights, by a closed form: an estimate, and on the high side.

    At its fullest a layer has the residual and the normalised tokens, and either the MLP's hidden units before and
    behind their activation or queries, keys, values and the attention's weights in float32; and the scan over the
    layers has taken a layer's largest kernel out of the stack.
    """
    image = config.image
    tokens, item = image.sequence, 4 if weights == "float32" else 2
    mlp = 2 * image.mlp_dim * item
    attention = 3 * image.width * item + image.heads * tokens * (4 + item)
    return batch * tokens * (2 * image.width * item + max(mlp, attention)) + image.width * image.mlp_dim * item


def _remedy(config: ModelConfig) -> str:
    """Which types and chips fit at all, smallest change first."""
    fits = [
        f"--weights {weights} ({size / GIB:.1f} GiB) on {', '.join(chips)}"
        for weights in get_args(WeightType)
        for size in [quantised.weight_bytes(config, weights)]
        if (chips := [chip.name for chip in CHIPS.values() if chip.torus and size < chip.hbm_bytes])
    ]
    one_chip = "; ".join(fits) if fits else "no type fits any one chip"
    return f"by their weights alone these do: {one_chip}. For several chips: --format stablehlo --mesh DATAxMODEL"


def _words(sizes: Iterable[int]) -> str:
    return " ".join(map(str, sizes))
