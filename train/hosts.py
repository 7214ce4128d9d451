"""The hosts of a run: one process each, which join at the start, stop at the same step, and end when one is missing.

Around the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client, where a program of train/
runs on more than one host. The same command is started on each, and jax.distributed does the rest but one thing: when a
process is gone it aborts the others, with lines that do not say who is missing. So its recoverable mode is on, in which
it ends nobody, and a thread of ours asks its coordination service who is alive. Process 0 runs that service: when that
one is gone JAX aborts all the same, and a handler of the abort says so.
"""

import contextlib
import ctypes
import dataclasses
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax._src import distributed  # who is alive, before any device is up, and where the coordinator is: not public
from jax.experimental import multihost_utils

from vit22b.program import Interrupted

_NAME_BYTES = 64  # of a host's name in messages
_LINGER_SECONDS = 2  # in which a process whose peer has ended may end by an error of its own, which says more
_LEAVE_SECONDS = 10  # that process 0 gives the others to leave before it
_PERIOD_SECONDS = 1  # between two questions who is alive
_ABORT_SECONDS = 10  # for the handler of an abort to say why; longer than its question for the coordinator takes

_ending = threading.Lock()
_kept: list[object] = []


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Which processes make up the run; without --coordinator it is this one alone."""

    coordinator: str | None = None
    """HOST:PORT of process 0, the same on every host; auto: as the cluster tells (Cloud TPU, GKE, SLURM)."""
    processes: int | None = None
    """Number of processes, one a host; goes with --coordinator HOST:PORT."""
    process: int | None = None
    """Which of them this is, from 0; goes with --coordinator HOST:PORT."""
    join_seconds: int = 300
    """How long a process waits at the start for the others."""
    heartbeat_seconds: int = 60
    """A process that is silent for so long is missing, and the others end."""

    def __post_init__(self) -> None:
        for name in ("join_seconds", "heartbeat_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected 1 or more")
        if self.coordinator in (None, "auto"):
            if (self.processes, self.process) != (None, None):
                raise ValueError("--processes and --process go with --coordinator HOST:PORT, the address of process 0")
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"--coordinator is {self.coordinator!r}; expected HOST:PORT of process 0, or auto")
        if self.processes is None or self.process is None:
            raise ValueError(
                "--coordinator HOST:PORT needs --processes, how many there are, and --process, which it is"
            )
        if not 0 <= self.process < self.processes:
            raise ValueError(
                f"--process is {self.process}; with --processes {self.processes} expected 0 to {self.processes - 1}"
            )


def on_first() -> bool:
    """Whether this is the process that prints and logs for all."""
    return jax.process_index() == 0


@contextlib.contextmanager
def joined(hosts: Hosts) -> Iterator[None]:
    """Joins the processes of a run; to be entered before any device is touched. For one alone it does nothing.

    While the body runs, a process that has ended or was silent for heartbeat_seconds ends this one, with exit code 1
    and a line that names it. A body that is done, or was told to stop, waits for the others'.

    Raises:
        Exception: the body's; an error of the runtime once it is known that nobody is missing.
    """
    if hosts.coordinator is None:
        yield
        return
    _connect(hosts)
    watch = _Watch(hosts.heartbeat_seconds)
    told_to_stop = None
    try:
        watch.exchange_names()
        try:
            with _printing_once():
                yield
        except Interrupted as interrupted:
            told_to_stop = interrupted
        multihost_utils.sync_global_devices("the end of the run")
    except (RuntimeError, ValueError) as error:
        if _is_the_runtimes(error):
            watch.wait_for_verdict(error)
        raise
    finally:
        watch.leave()
    if told_to_stop:
        raise told_to_stop


def _connect(hosts: Hosts) -> None:
    """Waits for the other processes, in the mode in which JAX leaves it to us what happens when one goes."""
    jax.config.update("jax_enable_recoverability", True)
    _explain_abort(
        lambda: (
            f"not every process of the run has come to the coordinator {distributed.global_state.coordinator_address} "
            f"within {hosts.join_seconds} s; start the same command on every host"
        )
    )
    print(f"{_who(hosts)} waits up to {hosts.join_seconds} s for the others", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(
            None if hosts.coordinator == "auto" else hosts.coordinator,
            hosts.processes,
            hosts.process,
            initialization_timeout=hosts.join_seconds,
            heartbeat_timeout_seconds=hosts.heartbeat_seconds,
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"--coordinator {hosts.coordinator} found no run to join: {error} Give HOST:PORT, --processes and --process"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        at = distributed.global_state.coordinator_address
        raise ConnectionError(f"cannot join the run at {at}: {error}; is its port in use by something else?") from error


def _who(hosts: Hosts) -> str:
    if hosts.coordinator == "auto":
        return "this process"
    return f"process {hosts.process} of {hosts.processes}, with process 0 at {hosts.coordinator},"


@contextlib.contextmanager
def _printing_once() -> Iterator[None]:
    """Only the first process writes to its standard output, what all would write alike."""
    with contextlib.ExitStack() as nowhere:
        if not on_first():
            nowhere.enter_context(contextlib.redirect_stdout(nowhere.enter_context(Path(os.devnull).open("w"))))
        yield


class _Watch:
    """Asks in a thread of its own who is alive: the main one waits in collectives that a missing peer never joins.

    The heartbeats are the coordination service's, so that no Python code need run for a process to count as alive.
    """

    def __init__(self, heartbeat_seconds: int) -> None:
        # Not jax.process_index(): it brings the devices up, and waits in that for a peer that may be gone.
        self._own, self._count = distributed.global_state.process_id, distributed.global_state.num_processes
        self._names = ["?"] * self._count
        self._heartbeat_seconds = heartbeat_seconds
        self._leaving, self._left = threading.Event(), threading.Event()
        self._explain_aborts()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def exchange_names(self) -> None:
        """Learns the names of the hosts, which every process tells the others."""
        own = np.frombuffer(socket.gethostname().encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), np.uint8)
        rows = multihost_utils.process_allgather(own)
        self._names = [bytes(row).rstrip(b"\0").decode() for row in rows]
        # Once more: where the devices come up, their runtime may set a handler of its own.
        self._explain_aborts()

    def _explain_aborts(self) -> None:
        _explain_abort(lambda: None if _coordinator_is_there() else self._describe({0}))

    def wait_for_verdict(self, error: Exception) -> None:
        """Ends the process if a peer is missing, which may be why its runtime failed; else comes back after a while."""
        first, _, _ = str(error).partition("\n")
        _tell(f"{first}; looking for {self._heartbeat_seconds} s whether a process is missing")
        self._thread.join(self._heartbeat_seconds + _LEAVE_SECONDS)

    def leave(self) -> None:
        """Disconnects: process 0 last, since whoever loses it is aborted."""
        self._leaving.set()
        if self._own == 0:
            self._thread.join(_LEAVE_SECONDS)
        self._left.set()
        # The interpreter must not end in a call of the thread's. One is over once all have asked, or are missing.
        self._thread.join()
        jax.distributed.shutdown()
        signal.signal(signal.SIGABRT, signal.SIG_DFL)

    def _run(self) -> None:
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001 (whatever it is: nobody would see any more that a process is missing)
            _end(f"process {self._own} cannot ask any more who is missing: {error!r}")

    def _ask(self) -> None:
        here: dict[int, int] = {}
        others = set(range(self._count)) - {self._own}
        while others and not self._left.is_set():
            missing = others & _missing(self._count, here)
            others -= missing
            if missing and not self._leaving.wait(_LINGER_SECONDS):
                _end(self._describe(missing))
            self._leaving.wait(_PERIOD_SECONDS)

    def _describe(self, missing: set[int]) -> str:
        hosts = [f"process {process} (host {self._names[process]})" for process in sorted(missing)]
        return (
            f"{', '.join(hosts)} of {self._count} has ended or cannot be reached, so process "
            f"{self._own} ends too; the same command on every host goes on from the last checkpoint"
        )


def _missing(count: int, here: dict[int, int]) -> set[int]:
    """Which of `count` processes are gone; waits for those that are there to ask as well.

    Args:
        count: of the processes that have joined.
        here: the incarnation of each as it was first seen, kept between calls; one that came back is another.
    """
    try:
        found = distributed.global_state.client.get_live_nodes(list(range(count)))
    except RuntimeError:  # the service does not answer
        return {0}
    for process, incarnation in found.items():
        here.setdefault(process, incarnation)
    return {process for process in range(count) if process not in found or found[process] != here[process]}


def _is_the_runtimes(error: Exception) -> bool:
    """Whether an error is a status such as "UNKNOWN: Gloo AllGather failed"; JAX raises some as other types."""
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(re.search(r"(^|: )[A-Z_]{5,}: ", str(error)))


def _coordinator_is_there() -> bool:
    host, _, port = str(distributed.global_state.coordinator_address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def _explain_abort(explain: Callable[[], str | None]) -> None:
    """Has abort() end the process with what `explain` says, and as ever where it says nothing.

    A handler of Python's own would never run: it waits for the main thread, and abort() does not. This one runs Python
    inside a signal: it may wait for ever, for a lock that the aborting thread holds. So an alarm ends the process, by
    SIGALRM, if the handler does not. What is left is a thread that never gives the interpreter back: the alarm is
    not set then, and the process hangs, as does whoever waits for it, until the others miss its heartbeat.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        del number
        signal.alarm(_ABORT_SECONDS)
        if message := explain():
            _end(message)

    _kept.append(handler)  # C keeps no reference
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def _tell(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def _end(message: str) -> None:
    """Says why and ends at once: the main thread may wait in a collective for ever, and cannot be interrupted there."""
    with _ending:  # one reason is enough
        _tell(message)
        sys.stdout.flush()
        os._exit(1)
