"""The routes of /api, and the OpenAPI document that tells of them: both from one table, the schemas from the answers' types."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from processor.core.answers import (
    ActionsAnswer,
    ErrorAnswer,
    FleetAnswer,
    PolicyAnswer,
    PrincipalAnswer,
    StatusAnswer,
    TimelineAnswer,
)
from processor.core.board import FleetQuery
from processor.core.profile import ActionsQuery, PolicyQuery
from processor.shell.metrics import find_version

DOCUMENT_PATH = "/api/openapi.json"


@dataclass(frozen=True, slots=True)
class Route:
    """One path of /api. `reads` is the method of Reader that answers; it takes the path's key, if any, then the query."""

    path: str
    reads: str
    summary: str
    answer: type
    query: type | None = None

    @property
    def keyed(self) -> bool:
        return "{key}" in self.path


ROUTES = (
    Route("/api/status", "tell_status", "How the pipeline is. Answers while nothing is loaded, too.", StatusAnswer),
    Route("/api/principals", "list_fleet", "The fleet: searched, sorted, a page at a time.", FleetAnswer, FleetQuery),
    Route("/api/principals/{key}", "summarise", "One principal, without its actions.", PrincipalAnswer),
    Route(
        "/api/principals/{key}/actions",
        "list_actions",
        "A principal's actions with the evidence for their verdicts.",
        ActionsAnswer,
        ActionsQuery,
    ),
    Route("/api/principals/{key}/timeline", "draw_timeline", "A principal's uses by day.", TimelineAnswer),
    Route(
        "/api/principals/{key}/policy",
        "write_policy",
        "The policy that a principal's use would need. Reads; changes nothing anywhere.",
        PolicyAnswer,
        PolicyQuery,
    ),
)

ERRORS = {
    "400": "A parameter cannot be used.",
    "401": "The token is missing or another one.",
    "404": "There is no such principal.",
    "503": "Nothing is loaded yet, or too many ask at once.",
}


@cache
def build_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    answers = [route.answer for route in ROUTES] + [ErrorAnswer]
    schemas, components = msgspec.json.schema_components(answers, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for route, schema in zip(ROUTES, schemas, strict=False):
        answer = {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
        statuses = [status for status in ERRORS if status != "404" or route.keyed]
        failures = {
            status: {"description": ERRORS[status], "content": {"application/json": {"schema": schemas[-1]}}}
            for status in statuses
        }
        paths[route.path] = {
            "get": {
                "operationId": route.reads,
                "summary": route.summary,
                "parameters": list_parameters(route),
                "responses": {"200": answer, **failures},
            }
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gapwatch",
            "version": find_version(),
            "summary": "The least-privilege gap of every IAM role and user.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        # Either: on a loopback address without a token nothing is asked for.
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def list_parameters(route: Route) -> list[dict[str, Any]]:
    """The path's key and the query's fields."""
    found: list[dict[str, Any]] = []
    if route.keyed:
        schema = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
        text = "A principal's key: 16 hex digits, XXH3-64 of ARN NUL unique id."
        found.append({"name": "key", "in": "path", "required": True, "description": text, "schema": schema})
    if route.query is not None:
        (_,), components = msgspec.json.schema_components([route.query])
        for name, schema in components[route.query.__name__]["properties"].items():
            parameter: dict[str, Any] = {"name": name, "in": "query", "schema": dict(schema)}
            if "description" in schema:
                parameter["description"] = parameter["schema"].pop("description")
            found.append(parameter)
    return found
