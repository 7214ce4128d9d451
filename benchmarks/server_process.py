"""The embedded server's program as a process: started on free ports, watched from outside, and ended.

Beside the walk SavedModel -> [server] -> client: every program here that asks a server something starts it by this, so
that what is proven and measured is what users run.
"""

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
_PROGRAM = ROOT / "serving" / "model_server.py"
_LOOK = 0.02  # seconds between two looks at the log
_OF_POOLS = ("tf_Compute", "batch_threads", "llvm-worker", "event_engine")  # as the kernel has their names
# What a server writes of a mistake of its own: of a handler, of a thread, of aiohttp, of the C++ below.
_FAULT = re.compile(
    r"Traceback \(most recent call last\)|[Dd]efect|Exception (calling application|in thread)"
    r"|never retrieved|Check failed|Fatal Python error|: [CF] \S+:\d+\]"
)


class ServerError(Exception):
    """The server did not start, or did not end."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a server's process has.

    Attributes:
        rss_bytes: memory.
        descriptors: open files and sockets.
        threads: all but the following ones.
        threads_of_pools: that TensorFlow starts for what a version runs at once, and ends with the version; and gRPC's
            core for connections that wait, and ends when they have not waited for long.
    """

    rss_bytes: int
    descriptors: int
    threads: int
    threads_of_pools: int


class ServerProcess:
    """serving/model_server.py with both ports open, until the context ends.

    Attributes:
        grpc, rest: addresses, host:port.
        log: file with what it writes, on stdout and stderr.
        start_seconds: from the start of the process until both ports were open, which is when every model is AVAILABLE.
    """

    def __init__(
        self,
        flags: Sequence[str],
        log: Path,
        *,
        patience: float = 300.0,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        """Starts it.

        Args:
            flags: besides the ports.
            log: file to write.
            patience: seconds that its models may take to load.
            environment: variables besides those of this process.

        Raises:
            ServerError: it has ended, or takes longer.
        """
        grpc_port, rest_port = free_ports(2)
        self.grpc, self.rest = f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}"
        self.log = log
        ports = [f"--port={grpc_port}", f"--rest_api_port={rest_port}", "--bind_address=127.0.0.1"]
        log.parent.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), *ports, *flags],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        try:
            self._wait_until_open(begin + patience)
        except BaseException:
            self.kill()
            raise
        self.start_seconds = time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def usage(self) -> Usage:
        """What it has now."""
        proc = Path("/proc") / str(self._process.pid)
        (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+)", (proc / "status").read_text(), re.M)
        names = []
        for thread in (proc / "task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                names.append((thread / "comm").read_text().strip())
        of_pools = sum(name.startswith(_OF_POOLS) for name in names)
        return Usage(int(kilobytes) * 1024, len(list((proc / "fd").iterdir())), len(names) - of_pools, of_pools)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Its exit code.

        Raises:
            ServerError: it runs on after that many seconds.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(f"the server still runs after {seconds:g} s; its log is {self.log}") from None

    def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()

    def faults(self) -> list[str]:
        """The lines of its log that tell of a mistake of its own."""
        return faults(self.log.read_text(errors="replace"))

    def _wait_until_open(self, deadline: float) -> None:
        while "Exporting HTTP/REST API at:" not in (text := self.log.read_text(errors="replace")):
            if not self.running:
                raise ServerError(f"the server ended with code {self._process.returncode}:\n{text[-2000:]}")
            if "Failed to start HTTP Server" in text or time.perf_counter() > deadline:
                raise ServerError(f"the server does not open its ports; its log is {self.log}:\n{text[-2000:]}")
            time.sleep(_LOOK)


def faults(log: str) -> list[str]:
    """The lines of a server's log that tell of a mistake of its own."""
    return [line for line in log.splitlines() if _FAULT.search(line)]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
