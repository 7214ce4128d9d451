"""AsyncClient does what Client does, and waits otherwise."""

import asyncio
import threading

import numpy as np
import pytest

from tests.clienthood import FAST
from tests.standin import RESOLUTION, StandIn, picture
from tests.waiting import until
from vit22b import errors, signature
from vit22b.client import AsyncClient, Client

COLOURS = ["red", "green", "blue", "blue", "red", "green", "orange", "red", "blue"]


def test_it_answers_as_the_client_does(standin: StandIn, client: Client):
    images = [picture(colour) for colour in COLOURS]
    images.insert(4, b"no image")
    pixels = np.full((3, RESOLUTION, RESOLUTION, 3), 100, np.uint8)

    async def ask():
        async with AsyncClient(standin.address, retry=FAST) as other:
            streamed = [part async for part in other.stream_images(images, on_error="return")]
            return (
                await other.embed_images(images, on_error="skip", dimensions=3, encoding="float16"),
                streamed,
                await other.embed_texts(["a red", "a blue"]),
                await other.embed_pixels(pixels),
                await other.features(images, tokens=True, on_error="skip"),
                await other.classify(images, ["red", "blue"], ["a {}"], on_error="return"),
                await other.embed_classes(["red", "blue"], ["a {}"]),
                (await other.describe()).manifest,
                await other.versions(),
                await other.predict(signature.FEATURES, {signature.PIXELS: pixels}),
            )

    found = asyncio.run(ask())
    expected = (
        client.embed_images(images, on_error="skip", dimensions=3, encoding="float16"),
        list(client.stream_images(images, on_error="return")),
        client.embed_texts(["a red", "a blue"]),
        client.embed_pixels(pixels),
        client.features(images, tokens=True, on_error="skip"),
        client.classify(images, ["red", "blue"], ["a {}"], on_error="return"),
        client.embed_classes(["red", "blue"], ["a {}"]),
        client.describe().manifest,
        client.versions(),
        client.predict(signature.FEATURES, {signature.PIXELS: pixels}),
    )
    assert repr(found).replace(" ", "") == repr(expected).replace(" ", "")
    np.testing.assert_array_equal(found[0].vectors, expected[0].vectors)
    np.testing.assert_array_equal(found[5].scores, expected[5].scores)


def test_every_method_of_the_one_is_a_method_of_the_other():
    public = [{name for name in dir(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert public[0] == public[1]


def test_images_may_come_asynchronously(standin: StandIn):
    async def images():
        for colour in COLOURS:
            await asyncio.sleep(0)
            yield picture(colour)

    async def ask():
        async with AsyncClient(standin.address) as client:
            return await client.embed_images(images())

    assert len(asyncio.run(ask())) == len(COLOURS)
    with Client(standin.address) as client, pytest.raises(ValueError, match="AsyncClient takes asynchronous"):
        client.embed_images(images())


def test_many_tasks_share_a_client_and_the_loop_goes_on(standin: StandIn):
    standin.delay = 0.02

    async def ask():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        async with AsyncClient(standin.address, retry=FAST) as client:
            ticking = asyncio.create_task(tick())
            found = await asyncio.gather(*(client.embed_images([picture(colour)]) for colour in COLOURS))
            ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(ask())
    assert [each.vectors.argmax() for each in found] == [0, 1, 2, 2, 0, 1, 0, 0, 2]
    assert ticks > 5


def test_a_task_that_is_cancelled_gives_its_requests_up(standin: StandIn):
    async def ask():
        async with AsyncClient(standin.address) as client:
            await client.describe()
            standin.delay = 0.3
            asking = asyncio.create_task(client.embed_images([picture("red")] * 4 * 20))
            await asyncio.to_thread(until, lambda: standin.under_way > 0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            standin.delay = 0
            return await client.embed_images([picture("blue")])

    assert asyncio.run(ask()).vectors[0, 2] == 1
    until(lambda: standin.under_way == 0)
    assert len(standin.asked(signature.EMBED_IMAGE_EACH)) < 10


def test_a_deadline_and_a_stream_left_early(standin: StandIn):
    async def ask():
        async with AsyncClient(standin.address, timeout=0.3, retry=FAST) as client:
            async for _part in client.stream_images([picture("red")] * 40):
                break
            standin.delay = 2
            with pytest.raises(errors.DeadlineError):
                await client.embed_images([picture("red")])

    asyncio.run(ask())


def test_a_client_that_is_closed_says_so(standin: StandIn):
    client = Client(standin.address)
    client.close()
    with pytest.raises(ValueError, match="the client is closed"):
        client.describe()


def test_threads_share_a_client(client: Client):
    found: dict[int, int] = {}

    def ask(place: int) -> None:
        found[place] = int(client.embed_images([picture(COLOURS[place])] * 9).vectors[0].argmax())

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(6)] == [0, 1, 2, 2, 0, 1]
