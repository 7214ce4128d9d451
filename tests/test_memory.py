import ctypes
import gc
import platform
import re
import weakref
from pathlib import Path

import pytest

from serving import memory


def resident() -> int:
    """Bytes of this process in memory."""
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives pages back when told to")
def test_what_was_freed_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size, count = 64 * 1024, 1024  # below the size at which a block is a mapping of its own
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # the last one keeps the heap from being cut at its end
        libc.free(block)
    before = resident()
    assert memory.give_back()
    assert before - resident() > size * count // 2
    libc.free(blocks[-1])


def test_what_refers_to_itself_goes_too():
    class Graph:
        pass

    graph = Graph()
    graph.itself = graph
    left = weakref.ref(graph)
    gc.disable()
    try:
        del graph
        assert left() is not None
        memory.give_back()
        assert left() is None
    finally:
        gc.enable()
