"""What the parameters of a call prove about the actions that it used.

CloudTrail writes one event for a call that may need several actions: a tag on what is created, a role handed to a
service, a version of an object. The tables say which parameter shows which action; here is how one looks for it.
A proof is a pair: needles, of which at least one stands in the raw JSON where the proof can hold at all, and a
predicate over the decoded parameters. Every predicate takes any JSON object and answers in bounded time.

CloudTrail spells a parameter as the API does, with its first letter lowered (`tagList`, `eBSOptions`), now and then
as it is (`ExecutionRoleArn`); S3's are header and query names (`x-amz-acl`, `versionId`); newer EC2 calls lie under one
`CreateVpcEndpointRequest` with lists as `{"tag": 1, ...}`, older ones hold lists as `{"items": [...]}`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Parameters = Mapping[str, Any]
Names = frozenset[str]

WALK_NODES_MAX = 5_000
"""Values looked at in one call's parameters; a record of CloudTrail holds at most 256 KB, real ones under 1,000."""

GIVEN_DEPTH_MAX = 8

LIST_MARKS = frozenset(("tag", "xmlns"))
"""Keys that number a list's elements (EC2) or name a namespace (S3): they say nothing of the value."""

NOT_PASSED = frozenset(
    (
        # These name a role that the service or somebody else assumes, or that is granted something: no one passes it.
        *("principal", "principals", "principalArn", "assumeRolePolicyDocument", "policy", "masterUserARN"),
        *("masterBackendRole", "assumableRoleArns", "sourceRoleArn", "crossAccountRoleArn", "crossAccountRoleArns"),
        *("consumerAccountRoleArn", "targetRoleArn", "removeIamRoles", "resourceArn", "resourceArns"),
        # These are the caller's own texts, which may well hold an ARN.
        *("environment", "environmentVariables", "environmentVariablesOverride", "variables", "tags", "tagSet"),
        *("tagSpecificationSet", "tagSpecification", "parameterValue"),
    )
)
"""Parameters under which the ARN of a role is no sign of iam:PassRole."""


@dataclass(frozen=True, slots=True)
class Proof:
    """`shows` holds for no parameters whose JSON lacks all `needles`; without needles it must always be asked."""

    needles: tuple[bytes, ...]
    shows: Callable[[Parameters], bool]


def build_proof(kind: str, argument: str) -> Proof | None:
    """The proof of a table row, None for what no parameter shows. Raises ValueError for a row that makes no sense."""
    if kind == "never":
        return None
    maker = MAKERS.get(kind)
    if maker is None:
        raise ValueError(f"no proof is called {kind!r}; there are {', '.join(sorted(MAKERS))} and never")
    return maker(argument)


def show_present(argument: str) -> Proof:
    """A value that is not empty at one of the paths `A.B|C|D-*`."""
    paths = [path.split(".") for path in argument.split("|")]
    exact = [[spell(name) for name in path] for path in paths if not path[-1].endswith("*")]
    starts = tuple(path[-1][:-1] for path in paths if path[-1].endswith("*"))

    def shows(parameters: Parameters) -> bool:
        if any(is_given(value) for path in exact for value in find_values(parameters, path)):
            return True
        return bool(starts) and any(key.startswith(starts) and is_given(parameters[key]) for key in parameters)

    return Proof((*quote([path[-1] for path in exact]), *(f'"{start}'.encode() for start in starts)), shows)


def show_anywhere(argument: str) -> Proof:
    """A value that is not empty under this name at any depth."""
    names = spell(argument)

    def shows(parameters: Parameters) -> bool:
        return any(key in names and is_given(value) for key, value in walk(parameters))

    return Proof(quote([names]), shows)


def show_value(argument: str, matches: Callable[[str, str], bool]) -> Proof:
    """A text (or a boolean, as a text) at a path that matches another in any case, the argument being `PATH TEXT`."""
    path, wanted = split_argument(argument)
    wanted = wanted.lower()

    def shows(parameters: Parameters) -> bool:
        return any(
            matches(str(value).lower(), wanted)
            for value in find_values(parameters, path)
            if isinstance(value, str | bool) and value != ""
        )

    return Proof(quote([path[-1]]), shows)


def show_contained(argument: str) -> Proof:
    """A text at a path that holds another as it is, the argument being `PATH TEXT`. The needle is of the text: the path
    may be one that every call has (`Host`)."""
    path, wanted = split_argument(argument)
    # JSON may write any other sign as an escape; `=` is seen as \u003d in real records.
    needle = max(re.findall(r"[A-Za-z0-9.-]+", wanted), key=len, default="")

    def shows(parameters: Parameters) -> bool:
        return any(isinstance(value, str) and wanted in value for value in find_values(parameters, path))

    return Proof((needle.encode(),), shows)


def split_argument(argument: str) -> tuple[list[Names], str]:
    """The path and the text of `PATH TEXT`. Raises ValueError where one lacks."""
    name, _, text = argument.partition(" ")
    if not name or not text:
        raise ValueError(f"{argument!r} is no parameter and a text with a space between")
    return [spell(part) for part in name.split(".")], text


def show_statement(argument: str) -> Proof:
    """A query that begins with given words, the argument being `NAME WORDS|WORDS`; the query may be at any depth."""
    path, words = split_argument(argument)
    names = path[-1]
    starts = "|".join(r"\s+".join(map(re.escape, start.split())) for start in words.split("|"))
    begins = re.compile(rf"(?:[\s(]|--[^\n]*\n)*(?:{starts})\b", re.IGNORECASE).match

    def shows(parameters: Parameters) -> bool:
        return any(
            key in names and isinstance(value, str) and begins(value[:4096]) is not None
            for key, value in walk(parameters)
        )

    return Proof(quote([names]), shows)


def show_pair(argument: str) -> Proof:
    """An object that gives a value to one of these names, as in `{"key": NAME, "stringValue": "x"}`."""
    names = frozenset(argument.split("|"))

    def shows(parameters: Parameters) -> bool:
        return any(
            isinstance(value, dict)
            and any(isinstance(named := value.get(key), str) and named in names for key in ("key", "optionName"))
            and any(is_given(value.get(key)) for key in ("value", "stringValue"))
            for _, value in walk(parameters)
        )

    return Proof(quote([names]), shows)


def show_role(argument: str) -> Proof:
    """A role or instance profile that is handed over: its ARN anywhere, or its bare name under `NAME|NAME`."""
    names = frozenset().union(*(spell(name) for name in argument.split("|") if name))

    def shows(parameters: Parameters) -> bool:
        return any(
            is_role_arn(value) or (key in names and is_given(value))
            for key, value in walk(parameters, skipped=_NOT_PASSED)
        )

    return Proof((b":role", b":instance-profile", *quote([names])), shows)


MAKERS: Mapping[str, Callable[[str], Proof]] = {
    "present": show_present,
    "anywhere": show_anywhere,
    "true": lambda argument: show_value(f"{argument} true", str.__eq__),
    "equals": lambda argument: show_value(argument, str.__eq__),
    "other": lambda argument: show_value(argument, str.__ne__),
    "contains": show_contained,
    "statement": show_statement,
    "pair": show_pair,
    "role": show_role,
}
"""Every proof that a table may name."""


def spell(name: str) -> Names:
    """The ways in which CloudTrail writes a parameter: with its first letter lowered or raised, a header as it is."""
    if "-" in name:
        return frozenset((name,))
    return frozenset((name, name[:1].lower() + name[1:], name[:1].upper() + name[1:]))


_NOT_PASSED = frozenset().union(*(spell(name) for name in NOT_PASSED))


def quote(names: list[Names]) -> tuple[bytes, ...]:
    """Needles for names that must occur as a whole JSON string."""
    return tuple(sorted({f'"{name}"'.encode() for group in names for name in group}))


def find_values(parameters: Parameters, path: list[Names]) -> Iterator[Any]:
    """The values at a path from the top, or from inside the one object that wraps all (`...Request`, `...Input`)."""
    level: list[Any] = [parameters]
    level.extend(v for k, v in parameters.items() if k.endswith(("Request", "Input")) and isinstance(v, dict))
    for names in path:
        level = [value for node in level if isinstance(node, dict) for key, value in node.items() if key in names]
        level = [element for value in level for element in list_elements(value)][:WALK_NODES_MAX]
    yield from level


def list_elements(value: Any) -> list[Any]:
    """The elements of a list, also of EC2's `{"items": [...]}`; anything else is its own only element."""
    if isinstance(value, dict) and isinstance(items := value.get("items"), list):
        return items
    return value if isinstance(value, list) else [value]


def is_given(value: Any, depth: int = GIVEN_DEPTH_MAX) -> bool:
    """Whether a value holds anything: CloudTrail writes what a caller left out as null, "", [], {} or not at all."""
    if value is None or value == "":
        return False
    if isinstance(value, dict):
        return any(is_given(part, depth - 1) for key, part in value.items() if key not in LIST_MARKS) if depth else True
    if isinstance(value, list):
        return any(is_given(part, depth - 1) for part in value) if depth else True
    return True


def walk(parameters: Parameters, skipped: Names = frozenset()) -> Iterator[tuple[str, Any]]:
    """Every (key, value) at any depth, the shallow ones first, a list's elements under the list's key; nothing below a
    skipped key, and no more than WALK_NODES_MAX."""
    found: list[tuple[str, Any]] = [("", parameters)]
    for key, value in found:
        yield key, value
        if len(found) > WALK_NODES_MAX:
            continue
        if isinstance(value, dict):
            found.extend(pair for pair in value.items() if pair[0] not in skipped)
        elif isinstance(value, list):
            found.extend((key, element) for element in value)


_match_role_arn = re.compile(r"arn:[^:\s]+:iam::[^:\s]*:(?:role|instance-profile)/\S+").fullmatch


def is_role_arn(value: Any) -> bool:
    """Whether a value is the ARN of a role or instance profile and nothing else: not a policy that names one."""
    return isinstance(value, str) and value.startswith("arn:") and _match_role_arn(value) is not None
