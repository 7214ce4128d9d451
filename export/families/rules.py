"""Rules: which tensor of another implementation is which leaf of our tree, and in what layout.

In front of the checkpoint on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Each family is one table of rules. A leaf without its tensor, a tensor that no leaf takes and a shape that does not fit
are errors, and all of them are told at once: a model that lost a part still answers.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from export.families.weights import Array, Weights
from vit22b.tree import Params, leaves, name_of

# kept: only the grouping of axes differs. linear: torch's [out, in]. convolution: torch's [out, channel, row, column].
Layout = Literal["kept", "linear", "convolution"]
LAYER = "{}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where a leaf comes from.

    Attributes:
        source: name of the tensor; with {} in it one of each layer, stacked.
        layout: of the tensor.
        part: (i, n): the i-th of n equal parts of its first axis, where several maps are one matrix.
    """

    source: str
    layout: Layout = "kept"
    part: tuple[int, int] = (0, 1)


Rules = Mapping[str, Rule]


def torch_rules(ours: str, theirs: str, modules: Mapping[str, str]) -> dict[str, Rule]:
    """The rules of torch modules: a norm has a scale and a bias, a factor is a tensor itself, the rest is linear.

    Args:
        ours: root of our leaves, for instance "image/blocks".
        theirs: root of the modules, for instance "encoder.layer.{}.".
        modules: by the name of our part, the module's name below the root.
    """
    rules = {}
    for part, module in modules.items():
        if part.endswith("_scale"):
            rules[f"{ours}/{part}/scale"] = Rule(theirs + module)
        elif part.endswith("norm"):
            rules[f"{ours}/{part}/scale"] = Rule(f"{theirs}{module}.weight")
            rules[f"{ours}/{part}/bias"] = Rule(f"{theirs}{module}.bias")
        else:
            rules[f"{ours}/{part}/kernel"] = Rule(f"{theirs}{module}.weight", "linear")
            rules[f"{ours}/{part}/bias"] = Rule(f"{theirs}{module}.bias")
    return rules


def fused_rules(ours: str, parts: Sequence[str], kernel: str, bias: str) -> dict[str, Rule]:
    """The rules of linear maps that are one matrix [n x out, in] and one bias, in the order of `parts`."""
    rules = {}
    for i, part in enumerate(parts):
        rules[f"{ours}/{part}/kernel"] = Rule(kernel, "linear", (i, len(parts)))
        rules[f"{ours}/{part}/bias"] = Rule(bias, part=(i, len(parts)))
    return rules


def assemble(weights: Weights, rules: Rules, shapes: Params) -> Params:
    """Builds the tree that a configuration asks for.

    Args:
        weights: read one tensor at a time.
        rules: by the name of the leaf.
        shapes: the tree of shapes, as vit22b.model.abstract gives it.

    Returns:
        The tree of float32 arrays.

    Raises:
        ValueError: something is missing, left over or of another shape; the message lists all of it.
    """
    targets = leaves(shapes)
    taken = {name for leaf in targets if leaf in rules for name, _ in _sources(rules[leaf], targets[leaf].shape)}
    problems = [line for leaf, target in targets.items() for line in _misfits(weights, leaf, rules.get(leaf), target)]
    over = sorted(weights.shapes.keys() - taken)
    problems += [f"  left over: {weights.own(name)} {weights.shapes[name]}" for name in over]
    if problems:
        raise ValueError(
            f"{weights.path} does not fit the model that it describes:\n" + "\n".join(problems) + "\n"
            "give the --family if it was taken for another; --skip PATTERN leaves out what shall not be taken over"
        )
    return jax.tree_util.tree_map_with_path(lambda path, s: _build(weights, rules[name_of(path)], s.shape), shapes)


def _sources(rule: Rule, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a leaf, each with the shape of what it fills."""
    if LAYER in rule.source:
        yield from ((rule.source.format(layer), shape[1:]) for layer in range(shape[0]))
    else:
        yield rule.source, shape


def _misfits(weights: Weights, leaf: str, rule: Rule | None, target: Any) -> Iterator[str]:
    if rule is None:
        yield f"  no rule for {leaf} {target.shape}"
        return
    for name, shape in _sources(rule, target.shape):
        there = weights.shapes.get(name)
        if there is None:
            yield f"  missing: {name}, for {leaf}"
        elif not _fits(laid_out := _laid_out(there, rule), shape):
            yield f"  {weights.own(name)} is {there}, in our layout {laid_out}; {leaf} takes {shape}"


def _build(weights: Weights, rule: Rule, shape: tuple[int, ...]) -> Array:
    if LAYER not in rule.source:
        return _convert(weights.read(rule.source), rule).reshape(shape)
    leaf = np.empty(shape, np.float32)
    for layer, (name, one) in enumerate(_sources(rule, shape)):
        leaf[layer] = _convert(weights.read(name), rule).reshape(one)
    return leaf


def _convert(tensor: Array, rule: Rule) -> Array:
    """The part of a tensor that a rule means, its axes in our order."""
    index, of = rule.part
    size = tensor.shape[0] // of if of > 1 else 0
    tensor = tensor[index * size : (index + 1) * size] if of > 1 else tensor
    return tensor.transpose(_axes(tensor.ndim, rule.layout))


def _axes(rank: int, layout: Layout) -> tuple[int, ...]:
    order = {"kept": tuple(range(rank)), "linear": (1, 0), "convolution": (2, 3, 1, 0)}[layout]
    return order if len(order) == rank else tuple(range(rank))


def _laid_out(shape: tuple[int, ...], rule: Rule) -> tuple[int, ...]:
    """The shape of what _convert gives, or one that fits nothing where the first axis does not divide."""
    if rule.part[1] > 1:
        shape = (shape[0] // rule.part[1], *shape[1:]) if shape and shape[0] % rule.part[1] == 0 else (0,)
    return tuple(shape[axis] for axis in _axes(len(shape), rule.layout))


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a reshape only joins or splits neighbouring axes: [D, H K] fits [D, H, K], and [F, D] never [D, F]."""
    ends, wanted = _ends(shape), _ends(target)
    return ends[-1] == wanted[-1] and (set(ends) <= set(wanted) or set(ends) >= set(wanted))


def _ends(shape: tuple[int, ...]) -> list[int]:
    """Where the axes of a shape end, counted in elements; axes of one element end nowhere."""
    return [1, *np.cumprod([size for size in shape if size != 1], dtype=int).tolist()]
