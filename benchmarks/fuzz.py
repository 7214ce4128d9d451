"""Sends a server requests that are a little wrong, and holds it to an answer for each.

    .venv/bin/python benchmarks/fuzz.py --requests 20000

Beside the walk SavedModel -> server -> [client]. The recorded cases of tests/conformance are changed in their bytes,
their fields, their JSON, their paths and headers, over gRPC on every method and over REST. Well-formed requests run
beside them. Wrong, and a reason for exit code 1, is:

- the server ends, or writes of a defect or a traceback;
- no answer within --patience seconds, or a connection that is closed on a whole request;
- UNKNOWN, but for a reload whose model does not load; INTERNAL (500), but for what is no message, which TensorFlow
  Serving answers so, with no text, and for the few failures of a run that it answers so too;
- an answer to a well-formed neighbour that differs by a bit from the one before.

Such a request is written to build/fuzz/, and is sent again with --seed SEED --first NUMBER --requests 1.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import collections
import contextlib
import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

from benchmarks import conformance
from benchmarks.fuzz_cases import Case, Corpus
from benchmarks.raw_client import LOST, PREDICTION, Grpc, Http, Reply, request
from benchmarks.server_process import ServerError, ServerProcess
from vit22b import program

_WORKERS = 6  # at once; the server takes one more over gRPC
_EVERY = 10.0  # seconds between two lines
_MOST_PROBLEMS = 20
_RELOAD = "HandleReloadConfigRequest"
# Of a run that fails inside TensorFlow, in the real server as here.
_INTERNAL = ("Tensor concat operation failed",)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fuzz the server."""

    requests: int = 20_000
    """How many."""
    seed: int = 0
    """The same seed sends the same requests."""
    first: int = 0
    """Number of the first request."""
    patience: float = 20.0
    """Seconds after which a request without an answer is taken for hanging."""
    folder: Path = Path("build/fuzz")
    """Where the models go, the server's log, and requests that were answered wrongly."""

    def __post_init__(self) -> None:
        if self.requests < 1 or self.first < 0 or self.patience <= 0:
            raise ValueError(
                f"--requests {self.requests} --first {self.first} --patience {self.patience:g}; expected 1 or more, 0 "
                "or more, and more than 0"
            )


def main(settings: Settings) -> int:
    """Fuzzes; the exit code."""
    folder = settings.folder.absolute()
    flags = conformance.make_models(folder)
    monitoring = folder / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }\n")
    flags += [f"--monitoring_config_file={monitoring}", "--statusz", "--request_log=json", "--max_num_load_retries=0"]
    corpus = Corpus((conformance.CONFORMANCE / "cases.jsonl").read_text(), (folder / "models.config").read_text())
    print(f"seed {settings.seed}", flush=True)
    with ServerProcess(flags, folder / "server.log") as server:
        fuzz = Fuzz(server, settings, folder)
        with fuzz.neighbours():
            fuzz.run(corpus)
        fuzz.end()
    print(f"{fuzz.sent} requests: {dict(fuzz.codes.most_common())}")
    if not fuzz.problems:
        print(f"each whole one was answered, and {fuzz.compared} neighbours as before; {LOST} are requests cut short")
    return 1 if fuzz.problems else 0


class Fuzz:
    """A server that is fuzzed.

    Attributes:
        sent, codes, compared: how many requests, how often each code, how many answers to neighbours.
        problems: what was wrong, a line each.
    """

    def __init__(self, server: ServerProcess, settings: Settings, folder: Path):
        self._server, self._settings, self._folder = server, settings, folder
        self._lock = threading.Lock()
        self._grpc = Grpc(server.grpc)
        self.sent = self.compared = 0
        self.codes: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []

    def run(self, corpus: Corpus) -> None:
        """Sends the requests, until there are too many problems."""
        settings = self._settings
        numbers = iter(range(settings.first, settings.first + settings.requests))
        told = time.monotonic()
        with futures.ThreadPoolExecutor(_WORKERS) as pool:
            while chunk := list(itertools.islice(numbers, 50 * _WORKERS)):
                for done in [pool.submit(self._one, corpus.case(settings.seed, number)) for number in chunk]:
                    done.result()
                if len(self.problems) >= _MOST_PROBLEMS or not self._server.running:
                    break
                if time.monotonic() > told + _EVERY:
                    told = time.monotonic()
                    print(f"{self.sent} sent, {len(self.problems)} problems, {self._server.usage()}", flush=True)

    @contextlib.contextmanager
    def neighbours(self) -> Iterator[None]:
        """Asks well-formed requests all the time, over both wires."""
        over = threading.Event()
        threads = [threading.Thread(target=ask, args=(over,), daemon=True) for ask in (self._ask_grpc, self._ask_rest)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def end(self) -> None:
        """Asks for the pages that show what was sent, ends the server, and reads its log."""
        with contextlib.closing(Http(self._server.rest, self._settings.patience)) as http:
            for path in ("/monitoring/prometheus/metrics", "/statusz"):
                if (code := http.send(request("GET", path), "GET").code) != "200":
                    self._tell(f"GET {path}: {code}")
        self._server.terminate()
        if code := self._server.wait(60):
            self._tell(f"the server ended with code {code}; expected 0")
        for line in self._server.faults():
            self._tell(f"the server's log: {line}")

    def _one(self, case: Case) -> None:
        patience = self._settings.patience
        if case.path:
            reply = self._grpc.send(case.path, case.content, patience=patience)
        else:
            with contextlib.closing(Http(self._server.rest, patience)) as http:
                reply = http.send(case.content, case.method, whole=case.whole)
        problem = judge(case, reply)
        with self._lock:
            self.sent += 1
            self.codes[reply.code] += 1
            if problem and len(self.problems) < _MOST_PROBLEMS:
                file = self._folder / f"{self._settings.seed}-{case.number}.bin"
                file.write_bytes(case.content)
                self._tell(f"request {case.number}, {case.path or 'REST'}, {file}: {problem}")

    def _tell(self, problem: str) -> None:
        self.problems.append(problem)
        print(problem, flush=True)

    def _ask_grpc(self, over: threading.Event) -> None:
        with contextlib.closing(Grpc(self._server.grpc)) as client:
            content = Corpus.neighbour()
            self._ask(over, lambda: client.send(PREDICTION + "Predict", content, patience=self._settings.patience))

    def _ask_rest(self, over: threading.Event) -> None:
        with contextlib.closing(Http(self._server.rest, self._settings.patience)) as client:
            body = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()
            content = request("POST", "/v1/models/half_plus/versions/2:predict", body)
            self._ask(over, lambda: client.send(content))

    def _ask(self, over: threading.Event, send: Callable[[], Reply]) -> None:
        first = send()
        while not over.is_set():
            if (reply := send()).content != first.content or reply.code not in ("OK", "200"):
                with self._lock:
                    self._tell(f"a neighbour: {reply}; expected {first}")
                return
            with self._lock:
                self.compared += 1


def judge(case: Case, reply: Reply) -> str:
    """What is wrong with an answer; "" if nothing is."""
    told = f"{reply.code} {reply.text} {reply.content[:300]!r}"
    if reply.code == LOST:
        return f"no answer: {reply.text}" if case.whole or "timed out" in reply.text else ""
    if reply.code == "UNKNOWN":
        return "" if case.path.endswith(_RELOAD) and "did not become available" in reply.text else told
    if reply.code == "INTERNAL" and not reply.text:
        return told + ", and it is a message" if case.parses else ""
    if reply.code in ("INTERNAL", "500", "DATA_LOSS"):
        return "" if any(text in reply.text + reply.content.decode(errors="replace") for text in _INTERNAL) else told
    return ""


if __name__ == "__main__":
    program.run(main, Settings, __doc__, failures=(ServerError,))
