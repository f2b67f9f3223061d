"""A process that gets nowhere starts again: how that is noticed, and what it does."""

import asyncio
import subprocess
import sys

import pytest
from conftest import ROOT

from processor.shell import kafka
from processor.shell.brokers import BrokerSettings, StalledError
from processor.shell.ending import within
from processor.stopping import Pulse

ANYWHERE = BrokerSettings(hosts=("localhost:9092",))


def test_a_pulse_without_beats_is_a_stall() -> None:
    async def watch() -> list[str]:
        pulse = Pulse()
        told = []
        watching = asyncio.ensure_future(pulse.watch(0.1))
        for _ in range(10):
            pulse.beat()
            await asyncio.sleep(0.05)
        told.append("beats" if not watching.done() else "stalled")
        with pytest.raises(StalledError, match="nothing was read, sent or waited for"):
            await within(30, watching)
        return told

    assert asyncio.run(watch()) == ["beats"]


def test_a_message_that_is_neither_acknowledged_nor_refused_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ANSWER_SECONDS_MAX", 0.05)

    async def send() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()
        done.set_result(None)
        await kafka.wait_acknowledged((done,), ANYWHERE)
        await kafka.wait_acknowledged((done, loop.create_future()), ANYWHERE)

    with pytest.raises(StalledError, match="not acknowledged"):
        asyncio.run(send())


def test_a_process_that_does_not_come_to_its_end_is_ended() -> None:
    code = (
        "import asyncio, os, signal; import processor.stopping as stopping; stopping.END_SECONDS_MAX = 0.2\n"
        "async def run():\n"
        "    stopping.stop_on_signals(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "    while True:\n"
        "        try: await asyncio.sleep(3_600)\n"
        "        except asyncio.CancelledError: pass\n"
        "asyncio.run(run())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, "does not come to its end" in done.stderr) == (0, True)


def test_a_stalled_process_starts_again_as_it_was_called() -> None:
    """Its id stays; what it is called with, too."""
    code = (
        "import os, sys; from processor.stopping import start_again; from processor.shell.brokers import StalledError;"
        "print(os.getpid(), flush=True); sys.argv = ['gapwatch', '--version'];"
        "start_again(StalledError('it stood still'), print)"
    )
    started = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    out, _ = started.communicate(timeout=120)
    first, told, version = out.splitlines()
    assert (int(first), told, started.returncode) == (started.pid, "it stood still; starting again", 0)
    assert "version" in version
