"""What a run is evaluated by while it trains: a module a protocol, each a callable of the weights.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The
loop calls every evaluator with the averaged weights where a run keeps an average, else with the weights themselves,
and logs what it returns under the evaluator's name: `eval/top1`.
"""

from typing import Protocol

from vit22b.tree import Params


class Evaluator(Protocol):
    """One protocol on one data set; what it needs for that it opens when it is made, so that errors come early."""

    def __call__(self, params: Params) -> dict[str, float]:
        """Metrics by name of a model's whole parameters, where training left them; the parameters are not consumed."""
        ...
