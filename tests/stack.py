"""gapwatch with its neighbours for real: the made-up company's log, Prometheus, Alertmanager, and a webhook that is told."""

import json
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import yaml
from conftest import start_gapwatch
from queries import DEPLOY, RULE_FILES, find_program

from processor.demo.company import build_company
from processor.opening import load_loops

SEED = 7
WEEKS = 2
END_SECONDS_MAX = 10
EXEMPTIONS = """
[break_glass]
principals = ["arn:aws:iam::*:role/break-glass"]
[exemptions.old-answer]
principal = "arn:aws:iam::*:role/bastion-node"
action = "*"
owner = "platform@harbourlight.example"
reason = "It was needed once."
expires = 2020-01-31
"""


def find_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(url: str, document: Any = None) -> Any:
    """The JSON that a GET, or a POST of a document, answers with."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - loopback only
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback only
        return json.loads(answer.read() or b"null")


def wait_for(what: str, found: Callable[[], Any], seconds: float) -> Any:
    """What `found` gives once it gives something; fails after so many seconds."""
    until = time.time() + seconds
    while time.time() < until:
        try:
            if value := found():
                return value
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {seconds:g} s")


@dataclass(slots=True)
class Told:
    """A notification: when it came, to which receiver, and what Alertmanager said."""

    at: float
    receiver: str
    group: str
    status: str
    alerts: list[dict[str, Any]]

    def find(self, **labels: str) -> list[dict[str, Any]]:
        """The firing alerts in it that have these labels."""
        return [each for each in self.alerts if each["status"] == "firing" and labels.items() <= each["labels"].items()]


class Receiver:
    """The webhook that Alertmanager tells."""

    def __init__(self) -> None:
        told: list[Told] = []

        class Taker(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.append(Told(time.time(), self.path.strip("/"), said["groupKey"], said["status"], said["alerts"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: pytest shows what matters."""

        self.told = told
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def find(self, **labels: str) -> list[Told]:
        """The notifications with such an alert firing."""
        return [each for each in list(self.told) if each.find(**labels)]


@dataclass
class Stack:
    """All of it. `begin` is the moment from which the company's stories count."""

    folder: Path
    begin: int = field(default_factory=lambda: int(time.time()))
    receiver: Receiver = field(default_factory=Receiver)
    ports: dict[str, int] = field(default_factory=dict)
    gapwatch: "subprocess.Popen[bytes] | None" = None

    def _begin_now(self) -> None:
        self.begin = int(time.time())
        self.company = build_company(SEED, self.begin)
        self.stories = {story.name: story for story in self.company.stories()}

    def __post_init__(self) -> None:
        self._begin_now()
        self.ports = {name: find_port() for name in ("gapwatch", "prometheus", "alertmanager")}
        self._ending = threading.Event()
        self._stack = ExitStack()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def __enter__(self) -> "Stack":
        # On a new machine the hot loops take ten seconds to compile; the stories' clock would not wait for that.
        load_loops(lambda _: None)
        self._begin_now()
        self._stack.callback(self.receiver.stop)
        try:
            self._write_log_so_far()
            self._write_settings()
            self._start_alertmanager()
            self._start_prometheus()
            self.start_gapwatch()
            self._stack.callback(lambda: self.stop_gapwatch(signal.SIGKILL))
            writer = threading.Thread(target=self._write_on, daemon=True)
            writer.start()
            self._stack.callback(self._ending.set)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _write_log_so_far(self) -> None:
        self.log = self.folder / "cloudtrail.ndjson"
        with self.log.open("wb") as file:
            for _, record in self.company.history(self.begin - WEEKS * 7 * 86_400, self.begin):
                file.write(orjson.dumps(record) + b"\n")

    def _write_on(self) -> None:
        with self.log.open("ab", buffering=0) as file:
            for at, record in self.company.live():
                if self._ending.wait(max(0.0, at - time.time())):
                    return
                file.write(orjson.dumps(record) + b"\n")

    def _write_settings(self) -> None:
        logging = "".join(
            f'[logging."{account}"]\ndata_events = {json.dumps(list(found))}\n'
            for account, found in self.company.data_events.items()
        )
        links = (
            f'page_url = "{self.url("gapwatch")}"\ndashboards_url = "http://grafana.example"\n'
            'runbooks_url = "https://runbooks.example.com/gapwatch"\n'
        )
        (self.folder / "gapwatch.toml").write_text(f"windows = [7]\n{logging}[alerts]\n{links}")
        (self.folder / "exemptions.toml").write_text(EXEMPTIONS)
        for number, document in enumerate(self.company.inventory()):
            (self.folder / f"iam-{number}.json").write_bytes(orjson.dumps(document))
        (self.folder / "organization.json").write_bytes(orjson.dumps(self.company.organization()))

    def start_gapwatch(self, *more: object) -> None:
        """Start the real command on the log, and wait until it is ready."""
        inventories = [part for path in sorted(self.folder.glob("iam-*.json")) for part in ("--inventory", path)]
        with (self.folder / "gapwatch.log").open("ab") as log:
            self.gapwatch = start_gapwatch(
                "run", "--source", self.log, *inventories, "--organization", self.folder / "organization.json",
                "--config", self.folder / "gapwatch.toml", "--exemptions", self.folder / "exemptions.toml",
                "--state", self.folder / "state", "--port", self.ports["gapwatch"], *more,
                stdout=log, stderr=log,
            )  # fmt: skip
        wait_for("gapwatch", lambda: self._answers(f"{self.url('gapwatch')}/readyz"), 60)

    def stop_gapwatch(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.gapwatch is not None:
            self.gapwatch.send_signal(signal.SIGCONT)
            self.gapwatch.send_signal(how)
            self.gapwatch.wait(END_SECONDS_MAX)

    def _start_alertmanager(self) -> None:
        program = find_program("prometheus-alertmanager", "prometheus-alertmanager")
        text = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()
        config = self.folder / "alertmanager.yml"
        config.write_text(text.replace("http://localhost:5001", self.receiver.url))
        self._run(
            "alertmanager", program, f"--config.file={config}", f"--storage.path={self.folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{self.ports['alertmanager']}", "--cluster.listen-address=",
        )  # fmt: skip

    def _start_prometheus(self) -> None:
        """With the shipped configuration but for its neighbours' addresses. The rules on unused grants are looked at each
        minute and wait for five: here they are asked for sooner, so that a test can wait for them."""
        program = find_program("prometheus", "prometheus")
        rules = self.folder / "rules"
        rules.mkdir()
        for path in RULE_FILES:
            text = (
                path.read_text()
                .replace("interval: 1m", "interval: 5s")
                .replace("for: 5m\n        # A", "for: 10s\n        # A")
            )
            (rules / path.name).write_text(text)
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"]["external_labels"]["gapwatch_page"] = self.url("gapwatch")
        config["alerting"]["alertmanagers"] = [
            {"static_configs": [{"targets": [f"127.0.0.1:{self.ports['alertmanager']}"]}]}
        ]
        del config["scrape_configs"][0]["dns_sd_configs"]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{self.ports['gapwatch']}"]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._run(
            "prometheus", program, f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}", "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
        )  # fmt: skip

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self._stack.callback(process.wait, END_SECONDS_MAX)
        self._stack.callback(process.kill)
        wait_for(name, lambda: self._answers(f"{self.url(name)}/-/ready"), 30)

    @staticmethod
    def _answers(url: str) -> bool:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback only
            return bool(answer.status == 200)

    def query(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query."""
        found = ask(f"{self.url('prometheus')}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        assert found["status"] == "success", found
        result: list[dict[str, Any]] = found["data"]["result"]
        return result

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Alertmanager's alerts that have these labels."""
        filters = [("filter", f'{name}="{value}"') for name, value in labels.items()]
        found: list[dict[str, Any]] = ask(f"{self.url('alertmanager')}/api/v2/alerts?{urllib.parse.urlencode(filters)}")
        return found

    def wait_until(self, seconds: float) -> None:
        """Wait for a moment of the stories' clock."""
        time.sleep(max(0.0, self.begin + seconds - time.time()))
