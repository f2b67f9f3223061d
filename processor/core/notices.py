"""What people are told who have no Alertmanager: which first uses are worth a message, and its words.

A first use is told once, while it is fresh: a replay of history, or a restart, tells nothing again. Who is new, by its own age
or by how long its account's log is known, is learned first: all that it does is done for the first time. Only ways to raise
its privileges or to hide are told even then. A message names principals, actions, risks and times, and nothing of a
record besides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_hexdigest

from processor.core.answers import Row
from processor.core.catalogue import Catalogue
from processor.core.explain import ascii_safe
from processor.core.first_uses import FirstUse
from processor.core.fleet import Fleet, Member
from processor.core.records import DAY_SECONDS, format_time

FRESH_SECONDS = 3600
ALWAYS_TOLD = frozenset(("privilege_escalation", "defense_evasion"))
NAMED_MAX = 20
"""Notices that one message names; it counts the rest."""

DIGEST_ROWS = 5
TEXT_CHARS_MAX = 300
"""Of a name in a message: an ARN with its path may have 600."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. `id` is the same whenever it is found again; `path` leads to the page with the evidence."""

    id: str
    kind: str
    text: str
    path: str


def find_notice(fleet: Fleet, place: tuple[int, int], use: FirstUse, learning_days: int, now: float) -> Notice | None:
    """The notice of a first use by (principal's key, action); None for one that is not worth a message."""
    key, action = place
    member = fleet.member(key)
    cell = None if member.usage is None else member.usage.cells.get(action)
    # An older log that was read since may know an earlier use.
    if cell is None or not -FRESH_SECONDS < now - min(use.time, cell.first_success) < FRESH_SECONDS:
        return None
    risks = list_risks(fleet.catalogue, member, action)
    if is_learned(fleet, member, learning_days, now) or ALWAYS_TOLD.intersection(risks):
        return build_notice(key, member, use, risks)
    return None


def list_risks(catalogue: Catalogue, member: Member, action: int) -> list[str]:
    """The risk classes of an action for who uses it: by path, too, where it is granted the rest of one."""
    granted = 0 if member.granted is None else member.granted.granted
    return catalogue.risks_of(action, catalogue.escalation_mask(granted))


def is_learned(fleet: Fleet, member: Member, learning_days: int, now: float) -> bool:
    """Whether a principal is old enough, and its log known for long enough, that a first use says something."""
    covered = fleet.covered_since(member.principal)
    created = 0 if member.granted is None else member.granted.created
    return covered is not None and max(covered, created) <= now - learning_days * DAY_SECONDS


def build_notice(key: int, member: Member, use: FirstUse, risks: Sequence[str]) -> Notice:
    """The words of a first use. The id is that of topic `alerts`."""
    parts = ("first_use", use.arn, member.principal.unique_id or "", use.action)
    told = ", ".join(risk.replace("_", " ") for risk in risks) or "privileged"
    return Notice(
        id=xxh3_64_hexdigest("\0".join(parts).encode()),
        kind="first_use",
        text=f"{show(use.arn)} used {show(use.action)} for the first time, at {format_time(use.time)} ({told})",
        path=f"/principals/{key:016x}?action={use.action.replace(':', '%3A')}#actions",
    )


def build_digest(rows: Sequence[Row], window: str, found: int, now: float) -> Notice | None:
    """The day's summary of unused grants with a risk: `rows` are the worst of `found` principals. None where there are none."""
    if not rows:
        return None
    worst = []
    for row in rows[:DIGEST_ROWS]:
        counts = row.counts_in(window)
        if counts is not None:
            worst.append(f"{show(row.arn)} ({sum(counts.risks.values())}, gap index {counts.gap_index})")
    day = format_time(int(now))[:10]
    return Notice(
        id=f"digest {day}",
        kind="unused_high_risk",
        text=f"{found} principals hold risky grants that they did not use in {window}. The worst: {'; '.join(worst)}",
        path=f"/?risk=any&sort=risk&window={window}",
    )


def show(text: str) -> str:
    """A name as a message has it: short, and without marks that would turn the text around."""
    shown = ascii_safe(text)
    return shown if len(shown) <= TEXT_CHARS_MAX else f"{shown[:TEXT_CHARS_MAX]}…"


def write_subject(notices: Sequence[Notice]) -> str:
    """One line, ASCII, at most 100 characters (SNS Publish, Subject)."""
    firsts = sum(notice.kind == "first_use" for notice in notices)
    kinds = {notice.kind for notice in notices}
    said = ["the pipeline's state"] if "pipeline" in kinds else []
    if firsts:
        said.append(f"{firsts} first uses of privileged actions" if firsts > 1 else "first use of a privileged action")
    said += ["a break-glass principal is in use"] if "break_glass" in kinds else []
    said += ["unused risky grants"] if "unused_high_risk" in kinds else []
    return f"gapwatch: {', '.join(said)}"


def write_lines(notices: Sequence[Notice], page_url: str) -> list[str]:
    """A message's lines: each notice with its link, as many as fit, and how many there are besides."""
    base = page_url.rstrip("/")
    lines = [f"{notice.text}{f' {base}{notice.path}' if base else ''}" for notice in notices[:NAMED_MAX]]
    return lines + [f"and {len(notices) - NAMED_MAX} more" for _ in range(len(notices) > NAMED_MAX)]


def write_slack(notices: Sequence[Notice], page_url: str) -> dict[str, object]:
    """The payload of an incoming webhook as Slack (and Mattermost, Rocket.Chat, Discord's /slack) takes it. `&`, `<` and `>` are
    escaped, so that no name is markup or calls people."""
    lines = [escape_slack(line) for line in write_lines(notices, page_url)]
    subject = write_subject(notices)
    return {
        "text": "\n".join([subject, *lines]),
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": subject, "emoji": False}},
            *({"type": "section", "text": {"type": "mrkdwn", "text": line[:3000], "verbatim": True}} for line in lines),
        ],
    }


def escape_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Standing:
    """Whether the pipeline is well, and when that changes: verdicts that stay behind the clock, and a log that falls silent. Each
    has a bound in seconds; 0 means that nobody asks. What was never well is not told: history is read, or there is no log yet.
    """

    def __init__(self, behind_seconds: float, silent_seconds: float) -> None:
        self._bounds = {"behind": behind_seconds, "silent": silent_seconds}
        self._since: dict[str, int] = {}
        self._wrong: set[str] = set()

    def look(self, now: float, as_of: int, newest: int) -> list[Notice]:
        """What is to be told, given the verdicts' time and the newest event's."""
        found = []
        for name, at in (("behind", as_of), ("silent", newest)):
            if not self._bounds[name]:
                continue
            if now - at <= self._bounds[name]:
                if name in self._wrong:
                    self._wrong.discard(name)
                    found.append(self._tell(f"{name} over", name, _WELL[name]))
                self._since[name] = at
            elif name in self._since and name not in self._wrong:
                self._wrong.add(name)
                minutes = int((now - at) // 60)
                found.append(self._tell(name, name, _WRONG[name].format(minutes=minutes, at=format_time(at))))
        return found

    def _tell(self, name: str, of: str, text: str) -> Notice:
        return Notice(f"{name} {self._since[of]}", "pipeline", text, "/api/status")


_WRONG = {
    "behind": "Verdicts have been behind for {minutes} minutes, they are as of {at}: is the store there, are logs read?",
    "silent": "No event has come for {minutes} minutes, the newest is of {at}: does the trail still deliver?",
}
_WELL = {"behind": "Verdicts are up to date again", "silent": "Events come again"}


class Pacer:
    """At most one message in `every` seconds; after a failure the pause doubles, up to PAUSE_SECONDS_MAX."""

    PAUSE_SECONDS_MAX = 600.0

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = 0.0
        self._failures = 0

    def is_due(self, now: float) -> bool:
        return now >= self._next

    def note_sent(self, now: float) -> None:
        self._failures = 0
        self._next = now + self._every

    def note_failed(self, now: float, asked: float = 0.0) -> None:
        """`asked`: for how long the other side asked to be left alone."""
        self._failures += 1
        pause = max(self._every, asked, 2.0 ** min(self._failures, 10))
        self._next = now + min(pause, self.PAUSE_SECONDS_MAX)


def pick_new(notices: Iterable[Notice], told: Iterable[str]) -> list[Notice]:
    """Those that were not told yet, in order, each once."""
    known = set(told)
    return [notice for notice in notices if notice.id not in known and not known.add(notice.id)]  # type: ignore[func-returns-value]  # add() is the point
