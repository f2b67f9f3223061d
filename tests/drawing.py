"""Dashboards drawn in a real browser with Grafana's own panels: tests/panels, built with npm once and kept there."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from queries import find_program

FOLDER = Path(__file__).parent / "panels"
DASHBOARDS = Path(__file__).parent.parent / "dashboards"
BUILD = (
    "npx", "esbuild", "panels.tsx", "--bundle", "--format=esm", "--splitting", "--outdir=out", "--log-level=error",
    "--jsx=automatic", "--define:global=window", '--define:process.env.NODE_ENV="development"',
    "--alias:react-custom-scrollbars-2=./scrollbars.js",
    *(f"--loader:.{kind}=dataurl" for kind in ("svg", "png", "woff", "woff2", "ttf")),
)  # fmt: skip
INSTALL_SECONDS_MAX = 600
DRAW_SECONDS_MAX = 300


def can_draw() -> bool:
    """Whether the programs are here; in CI they must be, and building says which is not."""
    return os.environ.get("CI") == "true" or all(shutil.which(program) for program in ("npm", "chromium"))


def build_panels() -> dict[str, str]:
    """Install and bundle what draws; returns the environment to draw in. Fails in CI where a program is missing."""
    find_program("npm", "npm")
    found = {**os.environ, "CHROMIUM": find_program("chromium", "chromium")}
    if not (FOLDER / "node_modules" / "@grafana" / "ui").is_dir():
        # Grafana's packages name peers that npm cannot bring together; what is used works without them. Nothing runs at install.
        run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--legacy-peer-deps")
        run("node", "node_modules/esbuild/install.js")
    run(*BUILD)
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, check=False, timeout=INSTALL_SECONDS_MAX)
    assert done.returncode == 0, done.stderr.decode()[-4_000:]


def draw_dashboards(
    environment: Mapping[str, str], prometheus: str, out: Path, **chosen: str
) -> dict[str, dict[str, Any]]:
    """Draw all dashboards into PNG files; returns by name what was found: {errors, panels: [{title, type, points}]}."""
    done = subprocess.run(
        ["node", "draw.mjs", prometheus, urlencode(chosen), out, *sorted(DASHBOARDS.glob("*.json"))],
        cwd=FOLDER,
        env=dict(environment),
        capture_output=True,
        check=False,
        timeout=DRAW_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr.decode()[-4_000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found
