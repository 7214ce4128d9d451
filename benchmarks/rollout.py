"""New versions of a model while it serves: rolled out, broken, rolled back.

Beside the walk SavedModel -> [server] -> client: the operator's side of it, by what an operator does, which is to copy
folders, rename and remove them, and to ask for the model's state.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from benchmarks.raw_client import MODEL
from benchmarks.server_process import ServerError

_PATIENCE = 180.0  # seconds that a version may take to load while everybody asks
_LOOK = 0.1


class Rollout:
    """The versions of one model: the odd numbers have the weights of one export, the even ones those of another.

    Attributes:
        current: the version that answers.
        switched: how often another took the place of the one that answered.
        refused: how many broken versions were refused.
    """

    def __init__(self, model: Path, odd: Path, even: Path):
        """Puts version 1 in place.

        Args:
            model: folder that the server follows, named as the model is.
            odd, even: the versions to copy.
        """
        self._model, self._exports = model, (even, odd)
        self._channel: grpc.Channel | None = None
        self._last = 0
        self.current = self._put()
        self.switched = self.refused = 0

    def follow(self, address: str) -> None:
        """Asks that server for the model's state from now on."""
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])

    def close(self) -> None:
        """Ends the connection."""
        if self._channel is not None:
            self._channel.close()

    def switch(self) -> None:
        """Rolls the next version out, and removes the one before."""
        before = self._roll_out()
        shutil.rmtree(self._model / str(before))

    def roll_back(self) -> None:
        """Rolls the next version out, and back to the one before."""
        before, after = self._roll_out(), self.current
        shutil.rmtree(self._model / str(after))
        self._settle(before, after)

    def break_one(self) -> None:
        """Puts a version in place that cannot be loaded, and removes it once the server has said so."""
        version = self._put(_break)
        self._wait(lambda states: states.get(version) == ModelVersionStatus.END, f"version {version} does not fail")
        shutil.rmtree(self._model / str(version))
        self.refused += 1

    def _roll_out(self) -> int:
        """Returns which version it was before."""
        before = self.current
        self._settle(self._put(), before)
        return before

    def _settle(self, after: int, before: int) -> None:
        """Waits until one version has taken the place of another."""

        def settled(states: dict[int, int]) -> bool:
            return states.get(after) == ModelVersionStatus.AVAILABLE and states.get(before) == ModelVersionStatus.END

        self._wait(settled, f"version {after} does not take the place of {before}")
        self.current = after
        self.switched += 1

    def _put(self, change: Callable[[Path], None] = lambda _folder: None) -> int:
        """Makes the next version appear, in one rename."""
        self._last += 1
        staged = self._model / f"{self._last}.partial"
        shutil.copytree(self._exports[self._last % 2], staged)
        change(staged)
        staged.rename(self._model / str(self._last))
        return self._last

    def _wait(self, holds: Callable[[dict[int, int]], bool], problem: str) -> None:
        assert self._channel is not None
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._model.name
        ask = self._channel.unary_unary(MODEL + "GetModelStatus")
        deadline = time.monotonic() + _PATIENCE
        states: dict[int, int] = {}
        while time.monotonic() < deadline:
            try:
                content = ask(request.SerializeToString(), timeout=_PATIENCE)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # an overload
                    raise ServerError(f"{problem}: the server does not say its state: {error.details()}") from error
            else:
                found = get_model_status_pb2.GetModelStatusResponse.FromString(content).model_version_status
                states = {each.version: each.state for each in found}
                if holds(states):
                    return
            time.sleep(_LOOK)
        raise ServerError(f"{problem} in {_PATIENCE:g} s: {states}")


def _break(version: Path) -> None:
    """Cuts the weights short."""
    data = next((version / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:100])
