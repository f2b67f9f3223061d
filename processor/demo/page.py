"""The demo's page: the view as HTML, without scripts, reloading itself."""

from html import escape
from urllib.parse import urlencode

from processor.demo.view import View

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is loaded from anywhere; the page's own style stands in it."""

_STYLE = """
:root { color-scheme: light dark; --bar: #c2410c; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
td:last-child { white-space: nowrap; } meter { width: 6rem; }
li { margin-bottom: .6rem; overflow-wrap: anywhere; } .later { opacity: .55; }
code { font-size: .9em; }
"""


def link_principal(arn: str, action: str = "") -> str:
    """An ARN that leads to the principal's page, and there to an action."""
    found = urlencode({"arn": arn, **({"action": action} if action else {})})
    return f'<a href="/principals?{escape(found)}"><bdi>{escape(arn)}</bdi></a>'


def render_page(view: View) -> str:
    """The whole page; every text from a log is escaped."""
    rows = "".join(
        f"<tr><td>{link_principal(row.arn)}</td><td>{row.window}</td><td>{row.granted:,}</td><td>{row.used:,}</td>"
        f"<td>{row.unused:,}</td><td>{row.unsure:,}</td>"
        f'<td><meter max="100" low="20" high="60" optimum="0" value="{row.index}">{row.index}</meter> {row.index}</td></tr>'
        for row in view.rows
    )
    stories = "".join(
        f"<li{'' if told.state else ' class=later'}>{escape(told.story.what)}<br><code>{escape(told.story.action)}</code> "
        f"{link_principal(told.story.principal_arn, told.story.action)}<br>{escape(told.state or 'its time has not come yet')}</li>"
        for told in view.stories
    )
    counts = ", ".join(f"{count:,} {escape(name)}" for name, count in view.records.items() if count)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="2"><title>gapwatch demo</title><style>{_STYLE}</style></head><body>
<h1>gapwatch: what roles may do, less what they did</h1>
<p>As of {escape(view.as_of)}: {view.principals} principals; {counts or "nothing read yet"}.
<a href="/">The fleet</a>, <a href="/metrics">metrics</a></p>
<h2>Stories</h2><ul>{stories}</ul>
<h2>The widest gaps</h2>
<table><thead><tr><th>Principal</th><th>Window</th><th>Granted</th><th>Used</th><th>Unused</th><th>Cannot tell</th>
<th>Gap index</th></tr></thead><tbody>{rows}</tbody></table></body></html>
"""
