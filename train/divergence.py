"""How far a student's answers are from a teacher's: the loss of distillation.

Inside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Source: Hinton et al. 2015; Beyer et al. 2022, "a good teacher is patient and consistent", section 3.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from train.classifier import Kind, hits, label_loss
from train.state import Batch, Loss, Metrics
from vit22b import model
from vit22b.execution import Execution
from vit22b.preprocess import Preprocess
from vit22b.tree import Params

TEACHER, ANSWERS = "teacher", "answers"  # a teacher's parameters beside the student's; its logits in a batch
Answer = Callable[[Params, Mapping[str, jax.Array]], jax.Array]


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a student learns.

    Attributes:
        kind: see divergence.
        temperature: see divergence.
        label_weight: share of the loss that the labels have; the teacher has the rest.
        labelled: whether images have labels, for the log.
    """

    kind: Kind
    temperature: float = 1.0
    label_weight: float = 0.0
    labelled: bool = True


def divergence(kind: Kind, teacher: jax.Array, student: jax.Array, temperature: float = 1.0) -> jax.Array:
    """KL(teacher || student) of each image, times the temperature's square, so that its gradient keeps its size.

    Args:
        kind: softmax: of one distribution over the classes. sigmoid: summed over the classes, each a yes or no, for a
            teacher whose head was trained so.
        teacher: logits [B, Y].
        student: logits [B, Y].
        temperature: T, by which both are divided.

    Returns:
        [B], 0 where both say the same.
    """
    wanted, found = teacher / temperature, student / temperature
    if kind == "softmax":
        each = optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(found), jax.nn.log_softmax(wanted))
    else:
        yes = jax.nn.sigmoid(wanted) * (jax.nn.log_sigmoid(wanted) - jax.nn.log_sigmoid(found))
        no = jax.nn.sigmoid(-wanted) * (jax.nn.log_sigmoid(-wanted) - jax.nn.log_sigmoid(-found))
        each = (yes + no).sum(axis=-1)
    return each * temperature**2


def distillation(
    aim: Aim, graph: nnx.GraphDef[model.Model], preprocess: Preprocess, execution: Execution, answer: Answer | None
) -> Loss:
    """The mean divergence from the teacher and, by their weight, the loss by the labels.

    Args:
        aim: what is learnt.
        graph: of the student.
        preprocess: the student's.
        execution: how it runs.
        answer: the teacher, where it answers inside the step; else the batch has its answers.
    """
    weight = aim.label_weight

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        student = {name: part for name, part in params.items() if name != TEACHER}
        images = model.normalise(batch["pixels"], preprocess, execution.dtype)
        logits = nnx.merge(graph, student).embed_image(images, execution=execution)["logits"]
        metrics = {"train_top1": hits(logits, batch["targets"]).mean()} if aim.labelled else {}
        total = jnp.zeros(())
        if weight < 1:
            wanted = batch[ANSWERS] if answer is None else answer(params[TEACHER], batch)
            apart = divergence(aim.kind, wanted, logits, aim.temperature).mean()
            agreed = (wanted.argmax(axis=-1) == logits.argmax(axis=-1)).mean()
            metrics |= {"divergence": apart, "agreement": agreed}
            total += (1 - weight) * apart
        if weight:
            total += weight * label_loss(aim.kind, logits, batch["targets"]).mean()
        return total, metrics

    return loss
