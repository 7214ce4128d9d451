import os
import signal
import subprocess
import sys

from tests.artefacts import ROOT
from train.stop import StopSignal


def test_a_signal_is_a_request_and_the_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with StopSignal() as stop:
            assert not stop.now()
            os.kill(os.getpid(), number)
            assert stop.now()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# A run that saves for a minute once it is told to stop.
STUCK = """
import time
from train.stop import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    while not stop.now():
        time.sleep(0.01)
    print("saving", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(1)
"""


def test_a_second_interrupt_ends_the_run_at_once():
    with subprocess.Popen([sys.executable, "-c", STUCK], cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "saving\n"
        process.send_signal(signal.SIGTERM)  # asks for what was asked already
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=50) == 130
        assert process.stderr.read() == "interrupted; nothing was saved of the steps since the last checkpoint\n"
