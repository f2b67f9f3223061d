"""What the dashboards are made of. A panel is a function call, so that units, descriptions and links are the same everywhere."""

from collections.abc import Iterator
from typing import Any

SCHEMA_VERSION = 41
Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ROLE_LINK = (
    "/d/gapwatch-role?var-account=${__data.fields.account}&var-principal=${__data.fields.principal:percentencode}"
)
WINDOW = 'window="$window"'
HERE = f'account=~"$account",{WINDOW}'
ONE = 'principal="$principal"'
THRESHOLDS = {"gap": ((None, "green"), (20, "yellow"), (60, "red")), "bad": ((None, "green"), (1, "red"))}


def thresholds(*steps: tuple[float | None, str]) -> Json:
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def target(expr: str, legend: str = "", *, instant: bool = False, ref: str = "A") -> Json:
    """One query of a panel."""
    found: Json = {"datasource": SOURCE, "editorMode": "code", "expr": expr, "refId": ref}
    if legend:
        found["legendFormat"] = legend
    return {**found, "instant": True, "range": False} if instant else found


def panel(kind: str, title: str, text: str, unit: str, targets: list[Json], **more: Any) -> Json:
    """What all panels have; `more` goes over it."""
    defaults: Json = {"unit": unit, **more.pop("defaults", {})}
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "targets": targets,
        **more,
    }


def stat(title: str, text: str, expr: str, unit: str = "none", colors: str = "", legend: str = "") -> Json:
    """A number, or one for each series."""
    defaults = {"thresholds": thresholds(*THRESHOLDS[colors])} if colors else {"thresholds": thresholds((None, "text"))}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "graphMode": "none",
        "colorMode": "value",
        "textMode": "value_and_name" if legend else "auto",
    }
    return panel("stat", title, text, unit, [target(expr, legend, instant=True)], options=options, defaults=defaults)


def lines(title: str, text: str, *series: tuple[str, str], unit: str = "none", stacked: bool = False) -> Json:
    """Lines over time; each of `series` is (query, legend)."""
    custom: Json = {"lineWidth": 1, "fillOpacity": 30 if stacked else 0, "showPoints": "never"}
    if stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    targets = [target(expr, legend, ref=chr(65 + at)) for at, (expr, legend) in enumerate(series)]
    return panel("timeseries", title, text, unit, targets, defaults={"custom": custom, "min": 0})


def bars(title: str, text: str, expr: str, legend: str, unit: str = "none") -> Json:
    """Bars, the longest first."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "gradient",
    }
    defaults = {"color": {"mode": "continuous-GrYlRd"}, "min": 0}
    targets = [target(f"sort_desc({expr})", legend, instant=True)]
    return panel("bargauge", title, text, unit, targets, options=options, defaults=defaults)


def table(title: str, text: str, expr: str, columns: str, value: str, unit: str, link: str = "") -> Json:
    """Rows of an instant query: `columns` are the labels that are shown, in that order, then the value by its name."""
    shown = columns.split()
    overrides = [_style(name) for name in shown]
    if value in WIDTHS:
        overrides.append({"matcher": {"id": "byName", "options": value}, "properties": [_widen(value)]})
    if link:
        overrides[shown.index("principal")]["properties"].append(
            {"id": "links", "value": [{"title": "Open the role", "url": link}]}
        )
    hidden = {name: True for name in ("Time", "job", "instance", "__name__") if name not in shown}
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": hidden,
            "indexByName": {name: at for at, name in enumerate([*shown, "Value"])},
            "renameByName": {"Value": value},
        },
    }
    return panel(
        "table",
        title,
        text,
        unit,
        [{**target(expr, instant=True), "format": "table"}],
        overrides=overrides,
        transformations=[organize],
    )


WIDTHS = {
    "account": 125, "risk": 165, "severity": 80, "quiet": 90, "key": 160, "kind": 60, "gap index": 90, "first used": 170,
    "seen": 170, "last used": 170, "change": 100, "refused": 80, "alerts": 80, "holds for": 110,
}  # fmt: skip
"""In pixels; the other columns, a principal's ARN above all, have what is left."""


def _style(column: str) -> Json:
    """A label is a text: an account's id is no number of billions."""
    properties: list[Json] = [{"id": "unit", "value": "string"}]
    if column in WIDTHS:
        properties.append(_widen(column))
    return {"matcher": {"id": "byName", "options": column}, "properties": properties}


def _widen(column: str) -> Json:
    return {"id": "custom.width", "value": WIDTHS[column]}


def words(title: str, content: str) -> Json:
    return {"type": "text", "title": title, "options": {"mode": "markdown", "content": content}}


def variable(name: str, query: str, label: str, *, every: bool = False) -> Json:
    """A variable whose values are a label's."""
    found: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }
    return {**found, "multi": True, "includeAll": True, "allValue": ".*"} if every else found


DATASOURCE = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}
ACCOUNT = variable("account", "label_values(gapwatch_principal_info, account)", "Account", every=True)
WINDOWS = variable("window", "label_values(gapwatch_window_seconds, window)", "Window")
PRINCIPAL = variable("principal", 'label_values(gapwatch_gap_index{account=~"$account"}, principal)', "Role or user")
PAGE = {"type": "textbox", "name": "page", "label": "gapwatch's address", "query": "http://localhost:9464"}


def annotation(name: str, color: str, expr: str, title: str) -> Json:
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": color,
        "expr": expr,
        "titleFormat": title,
    }


ANNOTATIONS = [
    annotation(
        "Inventory",
        "blue",
        "changes(gapwatch_inventory_timestamp_seconds[1m]) > 0",
        "Inventory of {{account}} was read",
    ),
    annotation(
        "Catalogue",
        "purple",
        "count by (catalogue) (gapwatch_build_info) unless count by (catalogue) (gapwatch_build_info offset 5m)",
        "Catalogue {{catalogue}}",
    ),
]


def place(rows: list[list[tuple[int, int, Json]]]) -> Iterator[Json]:
    """Panels with their places: each row holds (width of 24, height, panel)."""
    number = top = 0
    for row in rows:
        left = 0
        for width, height, found in row:
            number += 1
            yield {"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **found}
            left += width
        top += max(height for _, height, _ in row)


def dashboard(name: str, title: str, text: str, variables: list[Json], rows: list[list[tuple[int, int, Json]]]) -> Json:
    """One dashboard, linked to the others."""
    return {
        "uid": f"gapwatch-{name}",
        "title": title,
        "description": text,
        "tags": ["gapwatch"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "annotations": {"list": ANNOTATIONS},
        "links": [
            {"type": "dashboards", "title": "gapwatch", "tags": ["gapwatch"], "asDropdown": False, "keepTime": True}
        ],
        "templating": {"list": [DATASOURCE, *variables]},
        "panels": list(place(rows)),
    }
