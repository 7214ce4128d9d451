"""The stand-in service and a client of it as fixtures."""

from collections.abc import Iterator

import pytest

from tests.standin import StandIn, closed_address, serve
from vit22b.client import Client
from vit22b.transport import Retry

FAST = Retry(attempts=4, first_pause=0.01, longest_pause=0.05)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with serve(StandIn()) as served:
        yield served


@pytest.fixture
def unused_address() -> str:
    return closed_address()


@pytest.fixture
def client(standin: StandIn) -> Iterator[Client]:
    with Client(standin.address, retry=FAST, timeout=20) as client:
        yield client
