"""The labels of versions, by which a request names one without its number: stable, canary.

Beside lifecycle.py on the way SavedModel -> [server] -> client; the configuration sets them, a request is resolved by
them. Codes and texts are TensorFlow Serving's.
"""

from collections.abc import Iterable, Mapping

from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

from serving.states import States
from serving.status import invalid, unmet

Table = Mapping[str, Mapping[str, int]]  # model -> label -> version


class Labels:
    """Which label means which version of which model."""

    def __init__(self) -> None:
        self._table: Table = {}

    def version(self, name: str, label: str) -> int:
        """The version that a label means.

        Raises:
            tf.errors.InvalidArgumentError: the model has no such label.
        """
        number = self._table.get(name, {}).get(label)
        if number is None:
            raise invalid(f"Unrecognized servable version label: {label}")
        return number

    def check(self, models: Iterable[ModelConfig], states: States, *, unavailable: bool) -> Table:
        """The labels that a configuration sets.

        Args:
            models: the configuration.
            states: of the versions at this moment.
            unavailable: whether a label that is new, or stays where it is, may name a version that is not AVAILABLE.

        Raises:
            tf.errors.FailedPreconditionError: a label names a version that is not AVAILABLE.
        """
        table = {}
        for model in models:
            current = self._table.get(model.name, {})
            for label, number in model.version_labels.items():
                moved = current.get(label, number) != number
                if not states.available(model.name, number) and (moved or not unavailable):
                    raise unmet(
                        f"Request to assign label to version {number} of model {model.name}, which is not currently "
                        "available for inference",
                    )
            table[model.name] = dict(model.version_labels)
        return table

    def set(self, table: Table) -> None:
        """Puts the labels of a configuration in the place of those before."""
        self._table = table
