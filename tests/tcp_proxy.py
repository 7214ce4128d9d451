"""A real TCP proxy between a client and a server, that breaks what passes through it: cuts, delays, silence."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_CHUNK = 2**16


class TcpProxy:
    """Carries bytes between clients and a server.

    Attributes:
        address: where clients connect.
        delay: seconds that every piece of an answer is held.
        connections: that were made so far.
    """

    def __init__(self, target: str):
        """Listens on a free port; target is host:port."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.delay = 0.0
        self.connections = 0
        self._open: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cut_after: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection at once, with a reset. New ones are taken."""
        with self._lock:
            for each in self._open:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._open.clear()

    def cut_after(self, count: int) -> None:
        """Cuts once, when so many more bytes of answers have passed."""
        self._cut_after = count

    def silence(self) -> None:
        """Swallows what comes on the connections that there are: they are half open."""
        with self._lock:
            self._silent.update(self._open)

    def close(self) -> None:
        """Ends all."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open += [client, server]
            threading.Thread(target=self._carry, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, True), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(_CHUNK):
                if source in self._silent:
                    continue
                if is_answer:
                    time.sleep(self.delay)
                    if self._is_cut(len(content)):
                        return
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)

    def _is_cut(self, count: int) -> bool:
        with self._lock:
            if self._cut_after is None:
                return False
            self._cut_after -= count
            if self._cut_after > 0:
                return False
            self._cut_after = None
        self.cut()
        return True


@contextlib.contextmanager
def proxy(target: str) -> Iterator[TcpProxy]:
    """A proxy to host:port until the end of the block."""
    with contextlib.closing(TcpProxy(target)) as opened:
        yield opened
