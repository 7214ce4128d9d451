"""What a served model says of itself, and what its server says of its versions.

Between vit22b.pinned, which goes by it, and vit22b.transport, at the end of the walk SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vit22b import errors, signature, wire_pb2
from vit22b.signature import Manifest
from vit22b.tensors import from_wire, model_spec, predict_request
from vit22b.transport import Transport

if TYPE_CHECKING:
    from vit22b.tokenizer import Tokenizer

FOREIGN = "ask for a model that this vit22b exported"  # the remedy


@dataclasses.dataclass(frozen=True)
class Description:
    """What a served model says of itself.

    Attributes:
        version: the version that said it.
        manifest: its sizes, preprocessing, labels, signatures and space_id.
        tokenizer: of its text tower; None where it has none.
    """

    version: int
    manifest: Manifest
    tokenizer: "Tokenizer | None"


@dataclasses.dataclass(frozen=True)
class VersionState:
    """A version of a model on the server.

    Attributes:
        version: its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        message: why it failed, if it did.
    """

    version: int
    state: str
    message: str


async def describe(transport: Transport, version: int | None) -> Description:
    """Asks a model what it is.

    Args:
        transport: to its server.
        version: a version, or None for the latest.

    Raises:
        VitError: no answer, or a model that vit22b did not export.
    """
    found, outputs = await _describe(transport, version, (signature.MANIFEST, signature.TOKENIZER))
    try:
        manifest = Manifest.from_json(outputs[signature.MANIFEST])
        has_text = manifest.config.text is not None
        tokenizer = _tokenizer(outputs[signature.TOKENIZER]) if has_text else None
    except (KeyError, ValueError) as error:
        raise _unreadable(transport, error) from error
    return Description(found, manifest, tokenizer)


def _tokenizer(text: bytes) -> "Tokenizer":
    from vit22b.tokenizer import Tokenizer  # loads a library that those with images alone never need

    return Tokenizer.from_json(text)


async def space_of(transport: Transport, version: int) -> str:
    """Asks for a version's space alone; raises as `describe`."""
    _, outputs = await _describe(transport, version, (signature.MANIFEST,))
    try:
        return Manifest.from_json(outputs[signature.MANIFEST]).space_id
    except (KeyError, ValueError) as error:
        raise _unreadable(transport, error) from error


async def versions(transport: Transport) -> tuple[VersionState, ...]:
    """Asks for the states of a model's versions.

    Raises:
        VitError: no answer; NotServedError where the server never had the model.
    """
    await transport.open()
    request = wire_pb2.GetModelStatusRequest(model_spec=model_spec(transport.model, None))
    answer = await transport.status(request).result()
    state_name = wire_pb2.ModelVersionStatus.State.Name
    return tuple(
        VersionState(status.version, state_name(status.state), status.status.error_message)
        for status in answer.model_version_status
    )


async def _describe(transport: Transport, version: int | None, outputs: Sequence[str]) -> tuple[int, dict[str, bytes]]:
    """The version that answers, and outputs of `describe`."""
    request = predict_request(transport.model, signature.DESCRIBE, {}, version=version, outputs=outputs)
    await transport.open()
    try:
        answer = await transport.predict(request).result()
    except errors.RequestError as error:
        raise transport.error(errors.RequestError, error.message, error.code, _remedy(error), error.attempts) from error
    try:
        values = {name: from_wire(tensor).item() for name, tensor in answer.outputs.items()}
    except ValueError as error:
        raise _unreadable(transport, error) from error
    return answer.model_spec.version.value, values


def _unreadable(transport: Transport, error: Exception) -> errors.VitError:
    return transport.error(errors.ServerError, f"cannot read its description: {error}", "DATA_LOSS", FOREIGN)


def _remedy(error: errors.RequestError) -> str:
    return FOREIGN if error.code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT") else error.remedy
