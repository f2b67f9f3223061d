"""What the placeholders of call_tables.py stand for: the things that a principal works on at one moment.

A scene lasts for one burst of calls, so that a described function is the one that is updated next. Things that live on
(an instance, a key) are hashes of their account and service and come again; ids of the moment are drawn.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from processor.demo.accounts import COMPANY, HOME_REGION, Account
from processor.demo.ids import format_uuid, make_hex, make_uuid

SERVICES: Mapping[str, tuple[str, ...]] = {
    "workload": (
        "checkout-api",
        "payments-api",
        "tracking-ingest",
        "notify-mailer",
        "invoice-render",
        "payments-webhook",
    ),
    "lake": ("lake-glue-etl", "lake-compactor", "lake-events", "lake-orders"),
    "tooling": ("build-cache", "base-image", "artifact-mirror"),
    "security": ("log-archive", "siem-forwarder"),
    "management": ("organization-trail", "cost-exporter"),
}
"""What each kind of account runs, for principals that have no service of their own."""


class Scene(dict[str, str]):
    """Values by placeholder, made when first asked for."""

    def __init__(self, rng: Random, account: Account, service: str, **known: str) -> None:
        super().__init__(account=account.id, env=account.env.lower(), service=service, region=HOME_REGION, **known)
        self.rng = rng

    def __missing__(self, name: str) -> str:
        value = self[name] = MAKERS[name](self)
        return value


def fill(template: Any, scene: Scene) -> Any:
    """A template with its placeholders filled in; all else stays as it is."""
    if isinstance(template, str):
        return template.format_map(scene) if "{" in template else template
    if isinstance(template, dict):
        return {key: fill(value, scene) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, scene) for value in template]
    return template


def _keep(prefix: str, length: int, of: int = 1) -> Callable[[Scene], str]:
    """A thing that lives on: one of `of` that this account's service has."""

    def make(scene: Scene) -> str:
        which = scene.rng.randrange(of) if of > 1 else 0
        return prefix + make_hex(length, prefix, scene["account"], scene["service"], which)

    return make


def _draw(prefix: str, digits: int) -> Callable[[Scene], str]:
    """An id of the moment."""
    return lambda scene: f"{prefix}{scene.rng.getrandbits(4 * digits):0{digits}x}"


MAKERS: Mapping[str, Callable[[Scene], str]] = {
    "bucket": lambda scene: f"{COMPANY}-{scene['env']}-{scene['service']}",
    "object": lambda scene: f"in/{scene['hex8']}/part-{scene.rng.randrange(64):05d}.parquet",
    "table": lambda scene: f"{scene['service']}-{scene['env']}",
    "function": lambda scene: f"{scene['service']}-{scene['env']}",
    "queue": lambda scene: f"https://sqs.{scene['region']}.amazonaws.com/{scene['account']}/{scene['service']}",
    "cluster": lambda scene: f"product-{scene['env']}",
    "repository": lambda scene: f"{COMPANY}/{scene['service']}",
    "database": lambda scene: scene["service"],
    "stack": lambda scene: f"{scene['service']}-{scene['env']}",
    "log_group": lambda scene: f"/aws/lambda/{scene['service']}-{scene['env']}",
    "log_stream": lambda scene: f"[$LATEST]{scene['hex32']}",
    "address": lambda scene: f"10.20.{scene.rng.randrange(256)}.{scene.rng.randrange(1, 255)}",
    "number": lambda scene: str(scene.rng.randrange(100, 1000)),
    "key": lambda scene: make_uuid("key", scene["account"], scene["service"]),
    "uuid": lambda scene: format_uuid(scene.rng.getrandbits(128)),
    "instance": _keep("i-0", 16, 3),
    "volume": _keep("vol-0", 16, 3),
    "image": _keep("ami-0", 16),
    "group": _keep("sg-0", 16),
    "subnet": _keep("subnet-0", 16, 3),
    "detector": _keep("", 32),
    "task": _draw("", 32),
    "snapshot": _draw("snap-0", 16),
    "digest": _draw("", 64),
    "hex8": _draw("", 8),
    "hex12": _draw("", 12),
    "hex16": _draw("", 16),
    "hex32": _draw("", 32),
    "some_role": lambda scene: scene.rng.choice(("checkout-api-task", "payments-api-task", "tracking-ingest-lambda")),
    "passed_role": lambda scene: "/app/tracking-ingest-lambda",
}
