"""AWS for tests: a moto server, and a proxy in front of it that refuses or breaks what a test asks it to."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

import boto3

START_SECONDS_MAX = 30
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
REGION = "us-east-1"
OWN = "123456789012"
"""The account that moto takes unknown keys to be of."""

TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MotoServer:
    """A server of its own process; `url` is its endpoint."""

    def __init__(self) -> None:
        self.port = find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "PYTHONWARNINGS": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                assert time.monotonic() < end, "moto does not come up"
                assert self._process.poll() is None, "moto ended"
                time.sleep(0.05)

    def reset(self) -> None:
        """Forget everything that tests made."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - as above
            pass

    def open(self, service: str, account_id: str = OWN, **options: Any) -> Any:
        """A client for setting things up, in another account by a role there."""
        keys = dict(KEYS)
        if account_id != OWN:
            role = f"arn:aws:iam::{account_id}:role/setup"
            found = self.open("sts").assume_role(RoleArn=role, RoleSessionName="setup")["Credentials"]
            keys = {
                "aws_access_key_id": found["AccessKeyId"],
                "aws_secret_access_key": found["SecretAccessKey"],
                "aws_session_token": found["SessionToken"],
            }
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


class FaultyAws:
    """Passes calls on to a server, but for those that `faults` name: operation, or account and operation -> error code, or
    `<html>` for a page, and for each n-th by `every`: error code -> n. `calls` are the operations asked for, in order."""

    def __init__(self, server: MotoServer) -> None:
        self.faults: dict[str, str] = {}
        self.every: dict[str, int] = {}
        self.calls: list[str] = []
        self.roles: dict[str, str] = {}
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeouts: ClassVar[float] = 30.0

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                operation = find_operation(dict(self.headers.items()), body)
                account = faulty.find_account(dict(self.headers.items()), body)
                faulty.calls.append(operation)
                code = faulty.faults.get(f"{account}:{operation}") or faulty.faults.get(operation)
                code = code or next((each for each, n in faulty.every.items() if len(faulty.calls) % n == 0), None)
                status, kind, answer = (
                    faulty.refuse(code, dict(self.headers.items())) if code else self.forward(server.port, body)
                )
                if operation == "AssumeRole" and not code:
                    faulty.note_role(body, answer)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(ConnectionError):  # a gapwatch that ends does not wait for its answers
                    self.wfile.write(answer)

            def forward(self, port: int, body: bytes) -> tuple[int, str, bytes]:
                connection = HTTPConnection("127.0.0.1", port, timeout=self.timeouts)
                try:
                    connection.request("POST", self.path, body, dict(self.headers.items()))
                    answer = connection.getresponse()
                    return answer.status, answer.getheader("Content-Type") or "text/xml", answer.read()
                finally:
                    connection.close()

            def log_message(self, *_: object) -> None:
                """Tests' output is no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def refuse(self, code: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """An error as the protocol of the call has it."""
        status = 400 if code.startswith("Throttling") else 403
        if code == "<html>":
            return 404, "text/html", b"<!doctype html><title>Not here</title>"
        if "json" in headers.get("Content-Type", ""):
            return status, "application/x-amz-json-1.1", json.dumps({"__type": code, "message": "not for you"}).encode()
        text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>not for you</Message></Error></ErrorResponse>"
        return status, "text/xml", text.encode()

    def note_role(self, body: bytes, answer: bytes) -> None:
        """Remember of which account the keys of a role are."""
        key = re.search(rb"<AccessKeyId>(\w+)<", answer)
        role = parse_qs(body.decode()).get("RoleArn", [""])[0]
        if key is not None:
            self.roles[key[1].decode()] = role.split(":")[4]

    def find_account(self, headers: dict[str, str], body: bytes) -> str:
        key = re.search(r"Credential=(\w+)/", headers.get("Authorization", ""))
        role = parse_qs(body.decode(errors="replace")).get("RoleArn", [""])[0]
        return role.split(":")[4] if role else self.roles.get(key[1] if key else "", OWN)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def find_operation(headers: dict[str, str], body: bytes) -> str:
    """The operation of a call of AWS' query or JSON protocol."""
    target = next((value for name, value in headers.items() if name.lower() == "x-amz-target"), "")
    if target:
        return target.rpartition(".")[2]
    found = parse_qs(body.decode(errors="replace")).get("Action")
    return found[0] if found else urlsplit(target).path


def allow(*actions: str, **more: Any) -> str:
    """A policy document of one statement."""
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*", **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def make_role(iam: Any, name: str, path: str = "/", **policies: str) -> dict[str, Any]:
    """A role with inline policies, by name."""
    role: dict[str, Any] = iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=TRUST)["Role"]
    for policy, document in policies.items():
        iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=document)
    return role
