"""Writes the dashboards beside this file: `python dashboards/build.py`. They are plain JSON of Grafana's schema, kept in git."""

import json
from pathlib import Path

from gap_panels import build_gap
from oncall_panels import build_oncall
from panels import Json
from pipeline_panels import build_pipeline
from role_panels import build_role

BUILT = {"gap": build_gap, "role": build_role, "pipeline": build_pipeline, "oncall": build_oncall}


def render(found: Json) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, build in BUILT.items():
        Path(__file__).with_name(f"{name}.json").write_text(render(build()), "utf-8")
