"""The made-up company at work: its jobs (jobs.py) played out over time, as CloudTrail records.

Time is cut into slots, and what happens in a slot is a pure function of the seed and the slot: any span can be made by
itself, and the same span is the same whenever it is made.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from processor.demo.accounts import ACCOUNTS, REGIONS, Json
from processor.demo.jobs import Step, Work
from processor.demo.principals import DemoPrincipal
from processor.demo.records import write_assume, write_call, write_network_copy, write_service_event, write_sign_in
from processor.demo.scenes import SERVICES, Scene
from processor.demo.sessions import SESSION_SECONDS, Session, name_operator, name_service, open_session
from processor.demo.staff import RolePlan

Timed = tuple[int, Json]
"""A record with its eventTime in seconds since 1970."""

OPENING_SHARES: Mapping[str, float] = {"people": 0.4, "sso": 0.6, "github": 0.9, "vendor": 0.3, "linked": 0.05}
"""How often a burst begins with the call that opened its session, by how the role is assumed; else OPENING_SHARE."""

OPENING_SHARE = 0.15
SIGN_IN_SHARE = 0.5
"""Of the opened sessions in the console: the sign-in, an event of its own."""

DUPLICATE_SHARE = 0.004
"""Records that a second trail delivers again, with the same eventID."""

NETWORK_SHARE = 0.01
"""Calls through a VPC endpoint that the endpoint logs once more."""

THROTTLED_SHARE = 0.003
SERVICE_EVENT_SHARE = 0.006
AWAY_SHARE = 0.1
"""Bursts of the product's accounts in the company's other regions."""

SESSIONS_MAX = 4_096


@dataclass(slots=True)
class Activity:
    """Plays jobs. `works` are all jobs of all principals, `roles` the roles that a job may assume, by name."""

    seed: int
    works: Sequence[Work]
    roles: Mapping[str, Sequence[DemoPrincipal]]
    _sessions: dict[tuple[str, ...], Session] = field(default_factory=dict)

    def write_slot(self, label: str, start: int, seconds: int, means: Sequence[float], gap: int) -> list[Timed]:
        """All records of a slot in the order of their times. `means` says how many bursts of each work to expect, `gap`
        how many seconds at most lie between two calls of a burst; `label` keeps apart slots that begin alike."""
        rng = Random(f"{self.seed}:{label}:{start}")
        written: list[Timed] = []
        for work, mean in zip(self.works, means, strict=True):
            for _ in range(draw_count(rng, mean)):
                begin = start + int(rng.random() * seconds)
                if work.principal.exists_at(begin):
                    written += self._write_burst(work, begin, start + seconds - 1, gap, rng)
        for _ in range(draw_count(rng, SERVICE_EVENT_SHARE * len(written))):
            at, account = start + int(rng.random() * seconds), rng.choice(ACCOUNTS)
            written.append((at, write_service_event(account, at, Scene(rng, account, SERVICES[account.purpose][0]))))
        written.sort(key=lambda timed: timed[0])
        return list(_double_some(written, rng))

    def _write_burst(self, work: Work, begin: int, last: int, gap: int, rng: Random) -> Iterator[Timed]:
        principal = work.principal
        operator = name_operator(principal, begin, rng.getrandbits(16))
        session = self.open_session(principal, operator, work.client, begin)
        account = principal.account
        service = name_service(principal) or rng.choice(SERVICES[account.purpose])
        scene = Scene(rng, account, service, operator=operator)
        if account.purpose == "workload" and rng.random() < AWAY_SHARE:
            scene["region"] = REGIONS[1]
        at = begin
        for record in self._write_opening(session, at, rng):
            yield at, record
        for step in work.steps:
            at = min(at + int(rng.random() * (gap + 1)), last)
            for record in self.write_step(step, session, at, scene):
                yield at, record

    def _write_opening(self, session: Session, at: int, rng: Random) -> Iterator[Json]:
        plan = session.principal.plan
        if isinstance(plan, RolePlan):
            if rng.random() >= OPENING_SHARES.get(plan.trust, OPENING_SHARE):
                return
            yield from write_assume(session, at, rng)
        if session.client.console and rng.random() < SIGN_IN_SHARE:
            yield write_sign_in(session, at, rng)

    def write_step(self, step: Step, session: Session, at: int, scene: Scene) -> Iterator[Json]:
        """The records of one step: one, or two where a role of another account is assumed or an endpoint logs too."""
        rng = scene.rng
        if step.call is None:
            role = rng.choice(self.roles[step.target])
            opened = self.open_session(role, session.operator, "github", at)
            yield from write_assume(opened, at, rng, caller=session)
            return
        failed = step.failed or (step.call.read_only and rng.random() < THROTTLED_SHARE)
        record = write_call(step.call, session, at, scene, denied=step.denied, failed=failed, via=step.via)
        yield record
        if session.client.endpoint and not step.via and rng.random() < NETWORK_SHARE:
            yield write_network_copy(record, rng)

    def open_session(self, principal: DemoPrincipal, operator: str, client: str, at: int) -> Session:
        """`sessions.open_session`, remembered."""
        key = (principal.arn, operator, client, str(at // SESSION_SECONDS), principal.unique_id_at(at))
        found = self._sessions.get(key)
        if found is None:
            if len(self._sessions) >= SESSIONS_MAX:
                self._sessions.clear()
            found = self._sessions[key] = open_session(principal, operator, client, at)
        return found


def draw_count(rng: Random, mean: float) -> int:
    """How many events happen where `mean` are expected (Poisson; Knuth's way, or a normal one where that is slow)."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    count, product, floor = 0, rng.random(), math.exp(-mean)
    while product > floor:
        count += 1
        product *= rng.random()
    return count


def _double_some(written: Sequence[Timed], rng: Random) -> Iterator[Timed]:
    for timed in written:
        yield timed
        if rng.random() < DUPLICATE_SHARE:
            yield timed
