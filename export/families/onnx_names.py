"""The initialisers of an ONNX graph by the names that they had in the model it was exported from.

Under export/families/weights.py, in front of the checkpoint on the walk image -> batch -> train state -> checkpoint ->
SavedModel -> server -> client. An exporter that folds constants keeps the names of most parameters, but stores the
weight of a linear layer transposed under a number. Where the bias that is added to the product still has its name, so
does the weight: what stands beside `x.bias` is `x.weight`.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_LINEAR = ("MatMul", "Gemm", "Conv")
Tensors = dict[str, npt.NDArray[Any]]

_ANONYMOUS = re.compile(r"\w+::\w+|[A-Za-z_]*\d+")  # "onnx::MatMul_1966", "val_12"


def named_tensors(file: Path) -> Tensors:
    """The floating-point parameters of a graph, by name.

    Args:
        file: .onnx, its external data beside it.

    Returns:
        Tensors in the layout of torch: a linear layer's weight is [out, in].

    Raises:
        ValueError: the library is missing, the file is damaged, or a matrix has neither a name nor a named bias.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(f"{file} needs the library onnx; pip install onnx") from error
    try:
        graph = onnx.load(file).graph
    except (DecodeError, OSError) as error:
        raise ValueError(f"{file} is no ONNX model, or its external data is not beside it: {error}") from error
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type in floats}
    named = {name: tensor for name, tensor in stored.items() if not _ANONYMOUS.fullmatch(name)}
    rest = {name: tensor for name, tensor in stored.items() if name not in named and tensor.ndim > 1}
    for name, owner in _names_by_bias(graph, named, rest).items():
        named[owner] = rest.pop(name).T
    named.update(_position_table(named, rest))
    read = {name for node in graph.node if node.op_type in _LINEAR for name in node.input}
    rest = {name: tensor for name, tensor in rest.items() if name in read}  # others are masks and sizes
    if rest:
        shown = [f"{name} {list(tensor.shape)}" for name, tensor in rest.items()]
        raise ValueError(
            f"{file} has {len(rest)} matrices whose names the exporter did not keep: {', '.join(shown[:4])}; export "
            "with do_constant_folding=False, or import the safetensors that it was made from"
        )
    return named


def _names_by_bias(graph: Any, named: Tensors, rest: Tensors) -> dict[str, str]:
    """{"onnx::MatMul_7": "x.weight"} for each nameless matrix whose product `x.bias` is added to."""
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    names = {}
    for node in graph.node:
        if node.op_type == "Add":
            matrix = next((products[i] for i in node.input if i in products), None)
            bias = next((i for i in node.input if i in named and i.endswith(".bias")), None)
            if matrix in rest and bias:
                names[matrix] = bias.removesuffix("bias") + "weight"
    return names


def _position_table(named: Tensors, rest: Tensors) -> Tensors:
    """DINOv2's table of positions, which folding cuts in two: takes the halves out of `rest`.

    A traced model resizes the rows of its patches on every call; what is stored is [1, 1, D] and [1, N, D].
    """
    token = next((name for name in named if name.endswith("embeddings.cls_token")), None)
    if token is None:
        return {}
    table = token.removesuffix("cls_token") + "position_embeddings"
    if table in named:
        return {}
    width = named[token].shape[-1]
    own = [name for name, tensor in rest.items() if tensor.shape == (1, 1, width)]
    grid = [name for name, tensor in rest.items() if tensor.ndim == 3 and tensor.shape[::2] == (1, width)]
    grid = [name for name in grid if name not in own]
    if len(own) != 1 or len(grid) != 1:
        return {}
    return {table: np.concatenate([rest.pop(own[0]), rest.pop(grid[0])], axis=1)}
