import contextlib
import socket
import time
from concurrent import futures

import grpc
import pytest
import trustme

from tests.clienthood import FAST
from tests.standin import StandIn, picture, serve
from vit22b import errors
from vit22b.channel import Addresses, ChannelOptions, Tls, open_channel
from vit22b.client import Client

OURS, THEIRS = trustme.CA(), trustme.CA()
SERVER = OURS.issue_cert("localhost", "127.0.0.1")


def pair(authority: trustme.CA) -> dict[str, bytes]:
    issued = authority.issue_cert("client@example.org")
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return {"private_key": issued.private_key_pem.bytes(), "certificate_chain": chain}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("localhost:8500", ("localhost:8500",)),
        ("a:1, b:2", ("a:1", "b:2")),
        (["a:1", "[::1]:2"], ("a:1", "[::1]:2")),
        ("unix:/tmp/s", ("unix:/tmp/s",)),
    ],
)
def test_addresses(given, expected):
    assert Addresses.of(given).given == expected


@pytest.mark.parametrize("given", ["", "localhost", "http://localhost:8500", "a:1,", [], "a:1,unix:/tmp/s", "a:99999"])
def test_what_is_no_address(given):
    with pytest.raises(ValueError, match="address"):
        Addresses.of(given)


def test_several_addresses_become_one_target():
    assert Addresses.of("127.0.0.1:1,127.0.0.2:2").target() == "ipv4:127.0.0.1:1,127.0.0.2:2"
    assert Addresses.of("[::1]:1,[::1]:2").target() == "ipv6:[::1]:1,[::1]:2"
    assert Addresses.of("localhost:1").target() == "localhost:1"
    named = socket.gethostbyname("localhost")
    assert f"{named}:1" in Addresses.of("localhost:1,127.0.0.9:2").target()


def test_a_name_that_is_not_known():
    with (
        Client("nowhere.invalid:1,elsewhere.invalid:2") as client,
        pytest.raises(errors.UnreachableError, match="look up elsewhere"),
    ):
        client.describe()


def test_a_name_that_is_not_known_is_left_out_where_another_is(standin: StandIn):
    with Client(["nowhere.invalid:1", standin.address], retry=FAST) as client:
        assert client.describe().version == 1


def test_names_are_looked_up_again_when_a_server_is_away(monkeypatch: pytest.MonkeyPatch):
    old, new = StandIn(), StandIn()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        first.enter_context(serve(old))
        where = {"vit-0.test": old.address, "vit-1.test": old.address}

        def look_up(host, port, **_options):
            del port
            address, _, number = where[host].partition(":")
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, int(number)))]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        client = stack.enter_context(Client("vit-0.test:1,vit-1.test:1", retry=FAST))
        assert client.embed_images([picture("red")]).version == 1
        first.close()
        stack.enter_context(serve(new))
        where.update({"vit-0.test": new.address, "vit-1.test": new.address})
        assert len(client.embed_images([picture("blue")])) == 1
    assert new.requests


def test_threads_open_one_channel(standin: StandIn, monkeypatch: pytest.MonkeyPatch):
    opened = []

    def slowly(*arguments):
        time.sleep(0.02)
        opened.append(open_channel(*arguments))
        return opened[-1]

    monkeypatch.setattr("vit22b.transport.open_channel", slowly)
    with Client(standin.address) as client, futures.ThreadPoolExecutor(6) as pool:
        assert {each.version for each in pool.map(lambda _: client.describe(), range(6))} == {1}
    assert len(opened) == 1


def test_tls_shows_and_asks_for_certificates(tmp_path):
    chain = b"".join(part.bytes() for part in SERVER.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(SERVER.private_key_pem.bytes(), chain)], OURS.cert_pem.bytes(), require_client_auth=True
    )
    root = tmp_path / "ca.pem"
    root.write_bytes(OURS.cert_pem.bytes())
    with serve(StandIn(), credentials=credentials) as standin:
        port = standin.address.rpartition(":")[2]
        for address in (f"localhost:{port}", f"127.0.0.1:{port},127.0.0.1:{port}"):
            with Client(address, tls=Tls(root, **pair(OURS)), retry=FAST) as client:
                assert client.embed_images([picture("blue")]).vectors[0, 2] == 1
        for tls in (None, Tls(root), Tls(root, **pair(THEIRS)), Tls(THEIRS.cert_pem.bytes(), **pair(OURS))):
            with Client(f"localhost:{port}", tls=tls, retry=FAST) as client, pytest.raises(errors.UnreachableError):
                client.describe()
        other = Tls(root, **pair(OURS), server_name="elsewhere.example")
        with Client(f"localhost:{port}", tls=other, retry=FAST) as client, pytest.raises(errors.UnreachableError):
            client.describe()


def test_half_a_pair_and_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="both a private_key and a certificate_chain"):
        Tls(private_key=b"key")
    with (
        Client(tls=Tls(tmp_path / "none.pem")) as client,
        pytest.raises(errors.UnreachableError, match=r"none\.pem"),
    ):
        client.describe()


def test_a_key_goes_with_every_call(standin: StandIn):
    standin.key = "secret"
    with Client(standin.address, api_key="secret") as client:
        assert len(client.embed_images([picture("red")] * 9)) == 9
    for key in (None, "other"):
        with (
            Client(standin.address, api_key=key) as client,
            pytest.raises(errors.RequestError, match=r"UNAUTHENTICATED.*give a key") as caught,
        ):
            client.describe()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("options", [{"keep_alive": 0}, {"keep_alive": -1}])
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match="keep_alive"):
        ChannelOptions(**options)
