"""A Redis of a test's own that may be killed, and set back."""

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from brokers import find_ports, start_guard

START_SECONDS_MAX = 60.0


class RedisFailure(Exception):
    """Redis did not start; the text has its last words."""


class RedisServer:
    """A Redis with an append-only file, synced every second, that may be killed and set back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = find_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        from processor.shell.embedded import find_server

        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--bind", "127.0.0.1"]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(find_server()), "--port", str(self.port), "--dir", str(self.folder), *options],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._guard = start_guard(self._process.pid)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._listens():
            if (code := self._process.poll()) is not None or time.monotonic() > deadline:
                raise RedisFailure(f"Redis does not start ({code}): {self.read_log()[-1_000:]}")
            time.sleep(0.02)
        return self

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def read_log(self) -> str:
        return (self.folder / "redis.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def restart(self) -> None:
        """Crash it, and start it again a second later."""
        with self._lock:
            self.kill()
            time.sleep(1)
            self.start()

    def kill(self) -> None:
        """End it as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()

    def set_back(self, seconds: float) -> None:
        """Crash it, and start it with what it had some seconds before."""
        kept = self.folder / "kept"
        with self._lock:
            shutil.copytree(self.folder / "appendonlydir", kept)
            time.sleep(seconds)
            self.kill()
            shutil.rmtree(self.folder / "appendonlydir")
            kept.rename(self.folder / "appendonlydir")
            self.start()
