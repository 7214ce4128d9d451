"""A network and servers that fail in the middle of a job: no vector is lost, doubled or mixed."""

import contextlib
import time

import grpc
import numpy as np
import pytest

from tests.clienthood import FAST
from tests.standin import StandIn, closed_address, picture, serve
from tests.tcp_proxy import proxy
from tests.waiting import until
from vit22b import errors, signature
from vit22b.client import Client
from vit22b.retry import Retry

COLOURS = ("red", "green", "blue")
PATIENT = Retry(attempts=200, first_pause=0.01, longest_pause=0.1)


def rainbow(count: int) -> list[bytes]:
    """Images whose place in the job is told by their vectors: red, green, blue, red..."""
    return [picture(COLOURS[index % 3], size=6 + index % 5) for index in range(count)]


def assert_whole(found, count: int) -> None:
    assert found.indices == tuple(range(count))
    np.testing.assert_array_equal(found.vectors.argmax(axis=1), np.arange(count) % 3)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)


def test_connections_that_are_cut_again_and_again(standin: StandIn):
    standin.delay = 0.002
    with proxy(standin.address) as between, Client(between.address, retry=PATIENT) as client:
        parts = []
        for part in client.stream_images(rainbow(300)):
            parts.append(part)
            if len(parts) % 8 == 0:
                between.cut()
        vectors = np.concatenate([part.vectors for part in parts])
        np.testing.assert_array_equal(vectors.argmax(axis=1), np.arange(300) % 3)
        assert [index for part in parts for index in part.indices] == list(range(300))
        assert between.connections > 3


@pytest.mark.parametrize("count", [1, 150, 700])
def test_a_connection_that_is_cut_within_an_answer(standin: StandIn, count: int):
    with proxy(standin.address) as between, Client(between.address, retry=PATIENT) as client:
        client.describe()
        between.cut_after(count)
        assert_whole(client.embed_images(rainbow(60)), 60)
        assert between.connections == 2


def test_without_retries_a_cut_is_an_error_that_says_so(standin: StandIn):
    with proxy(standin.address) as between, Client(between.address, retry=Retry(attempts=1)) as client:
        client.describe()
        between.cut_after(150)  # within the answer: a call of which nothing has come, gRPC sends again by itself
        with pytest.raises(errors.UnreachableError) as caught:
            client.embed_images(rainbow(3))
        assert (caught.value.code, caught.value.attempts) == ("UNAVAILABLE", 1)


def test_a_slow_network_delays_and_changes_nothing(standin: StandIn):
    with proxy(standin.address) as between, Client(between.address) as client:
        between.delay = 0.02
        assert_whole(client.embed_images(rainbow(30)), 30)


def test_a_half_open_connection_ends_with_the_deadline(standin: StandIn):
    with proxy(standin.address) as between, Client(between.address, timeout=0.5, retry=FAST) as client:
        client.describe()
        between.silence()
        with pytest.raises(errors.DeadlineError, match="longer timeout"):
            client.embed_images(rainbow(3))


def test_a_half_open_connection_is_left_once_it_is_tested(standin: StandIn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vit22b.channel._UNACKNOWLEDGED", 0.2)
    with proxy(standin.address) as between, Client(between.address, retry=PATIENT, keep_alive=0.2) as client:
        client.describe()
        between.silence()
        assert_whole(client.embed_images(rainbow(9)), 9)
        assert between.connections > 1


def test_a_server_that_is_killed_and_restarted_in_the_middle_of_a_job():
    address = closed_address()
    first, second = StandIn(delay=0.005), StandIn()
    with Client(address, retry=PATIENT) as client:
        with serve(first, address):
            stream = client.stream_images(rainbow(200))
            parts = [next(stream) for _ in range(5)]
        with serve(second, address):
            parts += list(stream)
    assert [index for part in parts for index in part.indices] == list(range(200))
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts]).argmax(axis=1), np.arange(200) % 3)
    assert first.requests
    assert second.requests


def test_a_version_of_the_same_space_takes_over_in_the_middle_of_a_stream(standin: StandIn, client: Client):
    parts = []
    for part in client.stream_images(iter(rainbow(40))):
        if len(parts) == 3:
            standin.swap(2, "space-one")
        parts.append(part)
    assert [index for part in parts for index in part.indices] == list(range(40))
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts]).argmax(axis=1), np.arange(40) % 3)
    assert {part.version for part in parts} == {1, 2}


@pytest.mark.parametrize("once", [True, False])
def test_a_version_of_another_space_never_mixes(standin: StandIn, client: Client, once: bool):
    standin.unloads_after = 4
    images = rainbow(40)
    if once:
        with pytest.raises(errors.SpaceChangedError, match=r"space-one and space-two.*job anew"):
            client.embed_images(iter(images))
        standin.swap(3, "space-three")
        assert_whole(client.embed_images(iter(images)), 40)  # it was pinned to what is gone, and has begun nothing
    else:
        found = client.embed_images(images)
        assert_whole(found, 40)
        assert (found.version, found.space_id) == (2, "space-two")


@pytest.mark.parametrize("work", ["images", "texts"])
def test_a_server_that_comes_back_with_another_model_under_the_same_number(work: str, monkeypatch):
    monkeypatch.setattr("vit22b.served._FRESH", 0.0)  # an idle client sees no failure, and asks again
    address = closed_address()
    with Client(address, retry=PATIENT) as client:
        with serve(StandIn(), address):
            assert client.embed_images([picture("red")]).space_id == "space-one"
        with serve(StandIn(space_id="space-two"), address):
            found = client.embed_images([picture("red")]) if work == "images" else client.embed_texts(["a red"])
    assert (found.version, found.space_id) == (1, "space-two")


def test_a_failure_that_is_not_retried_counts_as_an_absence_too():
    address = closed_address()
    with Client(address, retry=Retry(attempts=1)) as client:
        with serve(StandIn(), address):
            assert client.embed_images([picture("red")]).space_id == "space-one"
        with pytest.raises(errors.UnreachableError):
            client.embed_images([picture("red")])
        found: list[str] = []

        def answered() -> list[str]:
            with contextlib.suppress(errors.UnreachableError):  # until gRPC tries the address again
                found.append(client.embed_images([picture("red")]).space_id)
            return found

        with serve(StandIn(space_id="space-two"), address):
            until(answered)
    assert found == ["space-two"]


def test_a_server_with_too_much_to_do_is_not_away(standin: StandIn, client: Client):
    client.describe()
    full = "The batch scheduling queue to which this task was submitted is full"
    standin.refusals = [(grpc.StatusCode.UNAVAILABLE, full)]
    assert len(client.embed_images([picture("red")])) == 1
    assert len(standin.asked(signature.DESCRIBE)) == 1


def test_a_model_that_changes_under_the_same_number_within_a_stream(standin: StandIn):
    with proxy(standin.address) as between, Client(between.address, retry=PATIENT) as client:
        stream = client.stream_images(rainbow(40))
        parts = [next(stream)]
        standin.space_id = "space-two"
        between.cut()
        with pytest.raises(errors.SpaceChangedError, match="space-one and space-two"):
            parts.extend(stream)
        assert {part.space_id for part in parts} == {"space-one"}


def test_a_stream_ends_where_the_space_does(standin: StandIn, client: Client):
    stream = client.stream_images(rainbow(40))
    parts = [next(stream), next(stream)]
    standin.swap(2, "space-two")
    with pytest.raises(errors.SpaceChangedError, match="space-one and space-two"):
        parts.extend(stream)
    assert {part.space_id for part in parts} == {"space-one"}
    indices = [index for part in parts for index in part.indices]
    assert indices == list(range(len(indices)))


def test_classes_of_one_space_do_not_score_images_of_another(standin: StandIn, client: Client):
    bank = client.embed_classes(["red", "green", "blue"], ["a {}"])
    assert client.classify([picture("blue")], bank).top()[0][0][0] == "blue"
    standin.swap(2, "space-two")
    with pytest.raises(errors.SpaceError, match=r"space-one and space-two.*embed the classes again"):
        client.classify([picture("blue")], bank)
    assert client.embed_images([picture("blue")]).space_id == "space-two"
    asked = len(standin.asked(signature.EMBED_IMAGE_EACH))
    with pytest.raises(errors.SpaceError, match=r"space-one and space-two.*embed the classes again"):
        client.classify([picture("blue")], bank)
    assert len(standin.asked(signature.EMBED_IMAGE_EACH)) == asked  # told before an image was sent
    assert client.classify([picture("blue")], ["red", "blue"], ["a {}"]).top()[0][0][0] == "blue"


def test_several_servers_are_asked_in_turn_and_a_dead_one_is_passed_over():
    servers = [StandIn(), StandIn()]
    with serve(servers[0]), serve(servers[1]):
        addresses = [each.address for each in servers]
        with Client([*addresses, closed_address()], retry=FAST) as client:
            assert_whole(client.embed_images(rainbow(60)), 60)
        asked = [len(each.asked(signature.EMBED_IMAGE_EACH)) for each in servers]
        assert min(asked) >= 4
        assert sum(asked) == 15


def test_a_server_that_dies_leaves_its_work_to_the_others():
    dying, staying = StandIn(delay=0.005), StandIn(delay=0.005)
    with serve(staying), Client([staying.address, address := closed_address()], retry=PATIENT) as client:
        with serve(dying, address):
            stream = client.stream_images(rainbow(200))
            parts = []
            while not dying.requests:
                parts.append(next(stream))
        parts += list(stream)
    assert [index for part in parts for index in part.indices] == list(range(200))


def test_a_server_without_the_version_yet_is_passed_over():
    old, new = StandIn(version=1), StandIn(version=2)
    with serve(old), serve(new), Client([old.address, new.address], version=2, retry=FAST) as client:
        found = client.embed_images(rainbow(24))
        assert found.version == 2
        assert_whole(found, 24)


def test_a_server_that_says_of_itself_that_it_does_not_serve_is_asked_nothing():
    well, ill = StandIn(), StandIn(serving=False)
    with serve(well), serve(ill), Client([well.address, ill.address], retry=FAST) as client:
        assert_whole(client.embed_images(rainbow(40)), 40)
    assert well.requests
    assert not ill.requests


def test_a_hedge_does_not_wait_for_a_server_that_is_slow_once():
    slow, quick = StandIn(delay=30), StandIn()
    with serve(slow), serve(quick):
        with Client([slow.address, quick.address], hedge_after=0.05, retry=FAST) as client:
            begin = time.monotonic()
            assert_whole(client.embed_images(rainbow(12)), 12)
            assert time.monotonic() - begin < slow.delay
        slow.delay = 0  # so that it ends


def test_hedges_are_sent_one_by_one_and_leave_the_retries_alone(standin: StandIn):
    with Client(standin.address, hedge_after=0.05, retry=Retry(attempts=2, first_pause=0.01), in_flight=1) as client:
        client.describe()
        standin.delay = 0.12
        standin.refusals = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")] * 3
        assert len(client.embed_images([picture("red")])) == 1


def test_the_clock_of_a_request_stands_still_while_nobody_waits(standin: StandIn):
    with Client(standin.address, timeout=0.4, retry=FAST, in_flight=2) as client:
        stream = client.stream_images(rainbow(12))
        next(stream)
        standin.refusals = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
        next(stream)
        time.sleep(0.6)
        assert len(list(stream)) == 1


def test_a_client_that_is_closed_in_the_middle_of_a_call_says_so(standin: StandIn):
    standin.delay = 0.3
    client = Client(standin.address, retry=FAST)
    stream = client.stream_images(rainbow(40))
    next(stream)
    client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        list(stream)


def test_hedges_are_within_the_budget(standin: StandIn):
    standin.delay = 0.1
    with Client(standin.address, hedge_after=0.0, retry=Retry(budget=2.0), in_flight=1) as client:
        client.describe()
        client.embed_images(rainbow(16))
    assert len(standin.requests) <= 1 + 4 + 2 + 1


def test_the_budget_ends_retries_of_a_server_that_has_too_much_to_do(standin: StandIn):
    with Client(standin.address, retry=Retry(attempts=100, first_pause=0, longest_pause=0, budget=3)) as client:
        client.describe()
        standin.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")] * 50
        with pytest.raises(errors.OverloadedError) as caught:
            client.embed_images([picture("red")])
        assert caught.value.attempts == 4
        assert "4 attempts" in str(caught.value)
