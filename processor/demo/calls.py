"""The calls that the made-up company makes, as CloudTrail writes them: rows of call_tables.py, made whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from processor.demo.call_tables import DATA_EVENTS, READS, READS_OF, WRITES, Template

THROTTLED = ("ThrottlingException", "Rate exceeded")


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of call. `resources` are pairs of (type, ARN); `data_event` marks what is logged as a data event only;
    `failure` is an errorCode with its message, other than a refusal."""

    event_source: str
    event_name: str
    read_only: bool
    parameters: Mapping[str, Any] | None = None
    response: Mapping[str, Any] | None = None
    resources: tuple[tuple[str, str], ...] = ()
    data_event: bool = False
    api_version: str = ""
    failure: tuple[str, str] = THROTTLED

    @property
    def prefix(self) -> str:
        return self.event_source.partition(".")[0]


FAILURES: Mapping[str, tuple[str, str]] = {
    "s3:GetBucketPolicy": ("NoSuchBucketPolicy", "The bucket policy does not exist"),
    "s3:GetBucketEncryption": (
        "ServerSideEncryptionConfigurationNotFoundError",
        "The server side encryption configuration was not found",
    ),
    "ec2:RunInstances": ("Client.DryRunOperation", "Request would have succeeded, but DryRun flag is set."),
    "ec2:DescribeInstances": ("Client.InvalidInstanceID.NotFound", "The instance ID does not exist"),
    "cloudformation:DescribeStacks": ("ValidationException", "Stack does not exist"),
    "lambda:GetFunction20150331v2": ("ResourceNotFoundException", "Function not found"),
    "iam:GetRole": ("NoSuchEntityException", "The role with this name cannot be found."),
}

API_VERSIONS: Mapping[str, str] = {"dynamodb": "2012-08-10", "logs": "20140328"}
"""Services that write an apiVersion."""


def build_calls() -> dict[str, Call]:
    """All calls by `source:EventName`, the source being the first part of CloudTrail's eventSource."""
    return {f"{call.prefix}:{call.event_name}": call for call in _walk_calls()}


def _walk_calls() -> Iterator[Call]:
    for names, template in READS:
        yield from _make(names, True, template)
    for names, template, resources in READS_OF:
        yield from _make(names, True, template, resources=resources)
    for names, template, response in WRITES:
        yield from _make(names, False, template, response)
    for names, read_only, template, resources in DATA_EVENTS:
        yield from _make(names, read_only, template, resources=resources, data_event=True)


def _make(
    names: str,
    read_only: bool,
    parameters: Template,
    response: Template = None,
    resources: tuple[tuple[str, str], ...] = (),
    data_event: bool = False,
) -> Iterator[Call]:
    prefix, _, listed = names.partition(":")
    for name in listed.split():
        yield Call(
            event_source=f"{prefix}.amazonaws.com",
            event_name=name,
            read_only=read_only,
            parameters=_read_template(parameters),
            response=_read_template(response),
            resources=resources,
            data_event=data_event,
            api_version=API_VERSIONS.get(prefix, ""),
            failure=FAILURES.get(f"{prefix}:{name}", THROTTLED),
        )


def _read_template(template: Template) -> Mapping[str, Any] | None:
    if not isinstance(template, str):
        return template
    return dict(pair.split("=", 1) for pair in template.split())
