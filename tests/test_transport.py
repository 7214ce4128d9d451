import contextlib
import threading
import time

import grpc
import numpy as np
import pytest

from tests.clienthood import FAST
from tests.standin import RESOLUTION, StandIn, picture, serve
from vit22b import errors, signature
from vit22b.client import Client
from vit22b.transport import Retry

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")


@pytest.mark.parametrize("refusal", [UNAVAILABLE, EXHAUSTED])
def test_a_server_that_is_away_or_busy_is_asked_again(standin: StandIn, client: Client, refusal):
    client.describe()
    standin.refusals = [refusal] * 3
    assert len(client.embed_images([picture("red")] * 9)) == 9


@pytest.mark.parametrize(
    ("refusal", "kind", "calls"),
    [
        (UNAVAILABLE, errors.UnreachableError, 4),
        (EXHAUSTED, errors.OverloadedError, 4),
        ((grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue to which"), errors.OverloadedError, 4),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "OOM when allocating tensor"), errors.OverloadedError, 1),
        ((grpc.StatusCode.INVALID_ARGUMENT, "Expects arg[0] to be float"), errors.RequestError, 1),
        ((grpc.StatusCode.UNIMPLEMENTED, ""), errors.RequestError, 1),
        ((grpc.StatusCode.INTERNAL, "XLA compilation\ndisabled"), errors.ServerError, 1),
    ],
)
def test_each_refusal_has_its_exception_and_number_of_calls(standin: StandIn, client: Client, refusal, kind, calls):
    client.describe()
    standin.refusals = [refusal] * 9
    with pytest.raises(kind) as caught:
        client.embed_images([picture("red")])
    assert type(caught.value) is kind
    assert len(standin.requests) == 1 + calls
    assert (caught.value.code, caught.value.address, caught.value.model) == (
        refusal[0].name,
        standin.address,
        "vit22b",
    )
    assert caught.value.remedy
    assert caught.value.remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_request_ends_at_its_deadline(standin: StandIn):
    with Client(standin.address, timeout=0.3, retry=FAST) as client:
        client.describe()
        standin.delay = 2
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineError, match="longer timeout"):
            client.embed_images([picture("red")])
        assert time.monotonic() - begun < 1.5


def test_no_server(unused_address: str):
    with Client(unused_address, retry=FAST) as client:
        with pytest.raises(errors.UnreachableError, match="start a model server") as caught:
            client.embed_images([picture("red")])
        assert caught.value.address == unused_address


def test_a_server_that_comes_late_is_found(unused_address: str):
    with Client(unused_address, retry=Retry(attempts=50, first_pause=0.05, longest_pause=0.2)) as client:
        threading.Timer(0.5, lambda: late.enter_context(serve(StandIn(), unused_address))).start()
        with contextlib.ExitStack() as late:
            assert client.describe().version == 1


def test_a_server_that_never_answered_is_given_up_earlier(standin: StandIn):
    retry = Retry(attempts=6, first_pause=0.01, first_attempts=2)
    with Client(standin.address, retry=retry) as client:
        standin.refusals = [UNAVAILABLE] * 2
        with pytest.raises(errors.UnreachableError) as caught:
            client.describe()
        assert caught.value.attempts == 2
        assert client.describe().version == 1
        standin.refusals = [UNAVAILABLE] * 5
        assert len(client.embed_images([picture("red")])) == 1


def test_messages_pass_the_limit_of_grpc(standin: StandIn, client: Client):
    standin.batch_sizes = (200_000,)
    pixels = np.full((200_000, RESOLUTION, RESOLUTION, 3), 7, np.uint8)
    assert pixels.nbytes > 4 * 2**20
    found = client.embed_pixels(pixels)
    assert found.vectors.nbytes > 4 * 2**20
    assert len(standin.asked(signature.EMBED_PIXELS)) == 1


@pytest.mark.parametrize("address", ["localhost", "http://localhost:8500", "localhost:x", ":8500", "h:99999", ""])
def test_an_address_without_a_port_is_refused(address: str):
    with pytest.raises(ValueError, match="expected host:port"):
        Client(address)


def test_pauses_grow_and_are_bounded():
    retry = Retry(attempts=50, first_pause=1.0, longest_pause=4.0)
    for attempt, bound in [(1, 1), (2, 2), (3, 4), (9, 4)]:
        pauses = [retry.pause(attempt, *UNAVAILABLE) for _ in range(200)]
        assert 0.5 * bound < max(pauses) <= bound
        assert min(pauses) < 0.2 * bound
    assert retry.pause(50, *UNAVAILABLE) is None
    assert retry.pause(1, grpc.StatusCode.INTERNAL, "") is None
    with pytest.raises(ValueError, match="attempts is 0"):
        Retry(attempts=0)
