"""Messages of topic `uses` -> uses, and of these what was not applied yet.

A ledger keeps one `UsesReader` a shard, which knows what came before; otherwise a message tells all that is needed.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from processor.core.compiled import Flags, Numbers, Words
from processor.core.principals import Principal
from processor.core.sessions import Actor, Calls, Effect, Place, Sessions, hash_text
from processor.core.uses import Uses
from topics.uses import NO_ORDER, Batch, UsingPrincipal

KNOWN_MAX = 32_768
"""Calls, sessions and places that a reader remembers, each; beyond that it forgets all, as the same soon come again."""

FindAction = Callable[[str], int]
Applied = Callable[[bytes], tuple[bytes, int] | None]
"""How far a source is applied: (sequence, index), None where nothing of it is."""


class UnreadableUses(ValueError):
    """A message whose columns and tables do not fit together."""


class _Arns:
    """The texts of a message's ARNs, by place in its column."""

    def __init__(self, texts: Sequence[str], which: Numbers) -> None:
        self._texts = texts
        self._which = which

    def read_arns(self, places: Numbers) -> list[str]:
        return [self._texts[number] for number in self._which[places].tolist()]


class UsesReader:
    """Reads the messages of one shard. `find` gives an action's id by name, a new one where no catalogue knows it."""

    def __init__(self, find: FindAction) -> None:
        self._find = find
        self._forget()

    def _forget(self) -> None:
        self._calls = Calls()
        self._effects: dict[tuple[int, tuple[int, ...]], Effect] = {}
        self._sessions = Sessions()
        self._places: list[Place] = []
        self._actors: dict[tuple[str, str | None], Actor] = {}
        self._call_numbers: dict[tuple[int, int, tuple[int, ...]], int] = {}
        self._session_numbers: dict[tuple[str, str], int] = {}
        self._place_numbers: dict[str, int] = {}
        self._action_ids: dict[str, int] = {}

    def read(self, batch: Batch) -> Uses:
        """The uses of a batch. Raises UnreadableUses for one that contradicts itself."""
        if max(len(self._calls), len(self._sessions), len(self._places)) > KNOWN_MAX:
            self._forget()
        count = len(batch.call) // 4
        call, session = _column(batch.call, "<u4", count), _column(batch.session, "<u4", count)
        region, time = _column(batch.region, "<u4", count), _column(batch.time, "<u4", count)
        counts = _column(batch.arns, "<u2", count)
        ends = np.cumsum(counts)
        which = _column(batch.arn, "<u4", int(ends[-1]) if count else 0)
        if sum(part.uses for part in batch.parts) != count:
            raise UnreadableUses("its parts have another number of uses than its columns")
        named = (*(part.source for part in batch.parts), *batch.ended, *batch.compared)
        if max(named, default=-1) >= len(batch.sources):
            raise UnreadableUses("a source that it names is beyond its table")
        try:
            return Uses(
                calls=self._calls,
                sessions=self._sessions,
                places=self._places,
                call=self._number_calls(batch)[call],
                session=np.array([self._number_session(*each) for each in batch.sessions], np.int64)[session],
                place=np.array([self._number_place(each) for each in batch.regions], np.int64)[region],
                time=time,
                event=_column(batch.event, "<u8", count).astype(np.uint64),
                arns_from=ends - counts,
                arns_to=ends,
                arn_hashes=self._hash_texts(batch.texts)[which],
                batch=_Arns(batch.texts, which),
                row=_column(batch.index, "<u4", count),
            )
        except IndexError as error:
            raise UnreadableUses(f"an index of its columns is beyond its table: {error}") from error

    def _number_calls(self, batch: Batch) -> Numbers:
        actors = [self._find_actor(each) for each in batch.principals]
        actions = [self._find_action(name) for name in batch.actions]
        numbers = np.empty(len(batch.calls), np.int64)
        for at, using in enumerate(batch.calls):
            actor = actors[using.principal]
            ids = tuple([actions[index] for index in using.actions])
            key = (actor.number, using.outcome, ids)
            number = self._call_numbers.get(key)
            if number is None:
                effect = self._effects.get(key[1:])
                if effect is None:
                    effect = self._effects[key[1:]] = Effect(None, ids, using.outcome)
                number = self._call_numbers[key] = self._calls.add(actor, effect)
            numbers[at] = number
        return numbers

    def _find_actor(self, using: UsingPrincipal) -> Actor:
        key = (using.arn, using.unique_id)
        found = self._actors.get(key)
        if found is None:
            account_id = using.arn.split(":", 5)[4] if using.arn.count(":") >= 5 else ""
            principal = Principal(using.arn, using.unique_id, account_id, using.kind)
            found = self._actors[key] = Actor(principal, None, len(self._actors))
        return found

    def _find_action(self, name: str) -> int:
        found = self._action_ids.get(name)
        if found is None:
            found = self._action_ids[name] = self._find(name)
        return found

    def _number_session(self, operator: str, via: str) -> int:
        key = (operator, via)
        number = self._session_numbers.get(key)
        if number is None:
            number = self._session_numbers[key] = self._sessions.add(_NOBODY, operator, via, "")
        return number

    def _number_place(self, region: str) -> int:
        number = self._place_numbers.get(region)
        if number is None:
            number = self._place_numbers[region] = len(self._places)
            self._places.append(Place(region or None, None))
        return number

    def _hash_texts(self, texts: Sequence[str]) -> Words:
        return np.array([hash_text(text) for text in texts], np.uint64)


def cut_applied(
    uses: Uses, batch: Batch, applied: Applied
) -> tuple[list[tuple[Uses, bool]], dict[bytes, tuple[bytes, int]]]:
    """The uses that are beyond what was applied of their sources, in order and in pieces by whether a stream should have brought
    them before; and how far each source is applied then."""
    moved: dict[bytes, tuple[bytes, int]] = {}
    keep = np.ones(len(uses.call), np.bool_)
    begin = 0
    for part in batch.parts:
        end = begin + part.uses
        source = batch.sources[part.source]
        if source == NO_ORDER:
            begin = end
            continue
        before = moved.get(source) or applied(source)
        if before is not None and part.sequence <= before[0]:
            keep[begin:end] = uses.row[begin:end] > before[1] if part.sequence == before[0] else False
        if part.uses and keep[end - 1]:
            moved[source] = (part.sequence, int(uses.row[end - 1]))
        begin = end
    return list(_divide(uses, batch, keep)), moved


def _divide(uses: Uses, batch: Batch, keep: Flags) -> Iterator[tuple[Uses, bool]]:
    if not batch.compared:
        yield (uses if keep.all() else _choose(uses, np.flatnonzero(keep))), False
        return
    compared = np.repeat([part.source in batch.compared for part in batch.parts], [part.uses for part in batch.parts])
    kept = np.flatnonzero(keep)
    for chosen in np.split(kept, np.flatnonzero(np.diff(compared[kept])) + 1):
        yield _choose(uses, chosen), bool(len(chosen) and compared[chosen[0]])


def _choose(uses: Uses, kept: Numbers) -> Uses:
    return Uses(
        uses.calls, uses.sessions, uses.places, uses.call[kept], uses.session[kept], uses.place[kept], uses.time[kept],
        uses.event[kept], uses.arns_from[kept], uses.arns_to[kept], uses.arn_hashes, uses.batch, uses.row[kept],
    )  # fmt: skip


def _column(raw: bytes, form: str, count: int) -> Numbers:
    """A column as 64-bit numbers. Raises UnreadableUses where it has another length."""
    found = np.frombuffer(raw, form) if len(raw) % np.dtype(form).itemsize == 0 else np.zeros(0)
    if len(found) != count:
        raise UnreadableUses("its columns are of different lengths")
    return found if form == "<u8" else found.astype(np.int64)  # type: ignore[return-value]  # of hashes, by the caller


_NOBODY = Actor(None, None)
