"""Answers -> HTML, by templates that escape everything, in slices that let others go on in between."""

import asyncio
import json
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from processor.core.catalogue import RISKS
from processor.core.explain import ascii_safe
from processor.core.gap import VERDICTS

SLICE_SECONDS = 0.005
HERE = Path(__file__).parent
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "page.svg": "image/svg+xml"}
"""What else is served, below /static."""

WORDS = {
    "used": "used",
    "unused": "unused",
    "unobservable": "unobservable",
    "too_new": "too new",
    "unproven": "unproven",
    "not_granted": "not granted",
}


class Renderer:
    """Templates and static files, read once."""

    def __init__(self) -> None:
        self.static = {name: (HERE / "static" / name).read_bytes() for name in STATIC}
        self.tags = {name: sha256(found).hexdigest()[:12] for name, found in self.static.items()}
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=show_text,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(
            tags=self.tags, words=WORDS, risks=RISKS, verdicts=VERDICTS, link=link, chart=chart
        )
        self._environment.filters.update(
            json=show_json,
            day=show_day,
            zip_same=lambda values: [(value, value) for value in values],
            spaced=lambda name: (name, name.replace("_", " ")),
        )

        for name in self._environment.list_templates():
            self._environment.get_template(name)  # Compiling takes longer than any request may hold up the rest.

    async def render(self, template: str, **given: Any) -> str:
        """A page. Gives way to others every few milliseconds."""
        parts: list[str] = []
        begun = time.perf_counter()
        for part in self._environment.get_template(template).generate(**given):
            parts.append(part)
            if time.perf_counter() - begun > SLICE_SECONDS:
                await asyncio.sleep(0)
                begun = time.perf_counter()
        return "".join(parts)


def show_text(value: Any) -> Any:
    """Text from logs and policies, made harmless before it is escaped: control and direction marks are shown, not obeyed."""
    return ascii_safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def show_json(value: Any) -> Markup:
    """JSON to read and copy: exact, since what is no ASCII stands as JSON escapes."""
    return escape(json.dumps(value, indent=2))


def show_day(time_text: str | None) -> str:
    return "never" if time_text is None else time_text.replace("T", " ").replace("Z", "")


def link(path: str, query: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A path with those parameters that are not empty; page 1 is none."""
    both = {**(query or {}), **changes}
    kept = {name: value for name, value in both.items() if value not in ("", None) and (name, value) != ("page", 1)}
    return f"{path}?{urlencode(kept)}" if kept else path


def chart(days: Any, height: int = 80) -> list[dict[str, Any]]:
    """Bars of a timeline: place and height by the square root of uses, so that a day of one use is seen beside one of many."""
    most = max((day.uses for day in days), default=0) ** 0.5
    bars = []
    for at, day in enumerate(days):
        high = max(2, round(height * day.uses**0.5 / most)) if day.uses else 0
        bars.append({"x": at * 10, "y": height - high, "height": high, "day": day})
    return bars
