"""Uses -> messages of topic `uses`: what an intake says to the ledgers, each of which reads it by `uses_reader`.

A message has the calls, sessions and texts that its uses have in common in tables of its own, so that a ledger needs nothing but
the message.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from processor.core.compiled import Numbers
from processor.core.key_tables import SHARD_SHIFT
from processor.core.sessions import Call
from processor.core.uses import Uses
from topics.contract import ContractError
from topics.uses import CODEC, Batch, Message, Part, UsingCall, UsingPrincipal

MESSAGE_USES_MAX = 8_192
"""Of one written message: some 350 kB of columns, which leaves its tables room up to what a broker takes."""

INDEX_BITS = 32
INDEX_MAX = 2**INDEX_BITS - 1
SEQUENCE_BYTES = 4
"""A use's place in its source: what of it is the sequence of its part, behind the base that it is counted from, and what its
index."""


@dataclass(frozen=True, slots=True)
class SliceRows:
    """One slice in a batch: the rows from `first` on are of this source's slice, before which `start` rows came; `ended`: it was
    the source's last. Where rows have places of their own `places` are these, counted from `base`. `compared`: a stream should have
    brought them before."""

    first: int
    source: bytes
    start: int
    ended: bool = False
    base: bytes = b""
    places: Numbers | None = None
    compared: bool = False


class UsesWriter:
    """Writes uses as messages. `names` are the actions' names by id."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def write(self, uses: Uses, slices: Sequence[SliceRows]) -> Iterator[tuple[int, bytes]]:
        """(shard, message) for each shard that has uses among these; `slices` by their rows, ascending. A message is never longer
        than a broker takes: uses that name more than that are divided."""
        if not len(uses.call):
            return
        shards = (uses.event >> np.uint64(SHARD_SHIFT)).astype(np.int64)
        order = np.argsort(shards, kind="stable")
        firsts = np.array([each.first for each in slices], np.int64)
        owners = np.searchsorted(firsts, uses.row, side="right") - 1
        # A use's place in its source, however that was cut into slices.
        places = uses.row - firsts[owners] + np.array([each.start for each in slices], np.int64)[owners]
        for number, each in enumerate(slices):
            if each.places is not None:
                begin, end = np.searchsorted(owners, (number, number + 1)).tolist()
                places[begin:end] = each.places[uses.row[begin:end] - each.first]
        ordered = shards[order]
        bounds = np.flatnonzero(np.diff(ordered)) + 1
        for chosen in np.split(order, bounds):
            shard = int(shards[chosen[0]])
            for value in self._write_messages(uses, chosen, owners, places, slices, frozenset()):
                yield shard, value

    def _write_messages(
        self,
        uses: Uses,
        chosen: Numbers,
        owners: Numbers,
        places: Numbers,
        slices: Sequence[SliceRows],
        more: frozenset[bytes],
    ) -> Iterator[bytes]:
        """The uses in as many messages as they need; `more` are sources of which more comes behind these."""
        if len(chosen) <= MESSAGE_USES_MAX:
            batch = self._write_batch(uses, chosen, owners[chosen], places[chosen], slices, more)
            with suppress(ContractError):
                yield CODEC.encode(Message(batch=batch))
                return
            if len(chosen) == 1:
                # What it did counts; to which of thousands of resources must go.
                yield CODEC.encode(Message(batch=replace(batch, texts=(), arns=b"\0\0", arn=b"")))
                return
        first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
        behind = more.union([slices[owner].source for owner in np.unique(owners[second]).tolist()])
        yield from self._write_messages(uses, first, owners, places, slices, behind)
        yield from self._write_messages(uses, second, owners, places, slices, more)

    def _write_batch(
        self,
        uses: Uses,
        chosen: Numbers,
        owners: Numbers,
        places: Numbers,
        slices: Sequence[SliceRows],
        more: frozenset[bytes],
    ) -> Batch:
        numbers, call = np.unique(uses.call[chosen], return_inverse=True)
        calls = [uses.calls[number] for number in numbers.tolist()]
        session_numbers, session = np.unique(uses.session[chosen], return_inverse=True)
        region_numbers, region = np.unique(uses.place[chosen], return_inverse=True)
        principals, actions, using = self._write_calls(calls)
        counts, texts, arn = _write_arns(uses, chosen)
        over = {each.source for each in slices if each.ended} - more
        compared = {each.source for each in slices if each.compared}
        sources, parts = _write_parts(owners, places >> INDEX_BITS, slices)
        return Batch(
            principals=principals,
            actions=actions,
            calls=using,
            sessions=tuple([
                (found.operator, found.origin.via) for found in map(uses.sessions.__getitem__, session_numbers.tolist())
            ]),
            regions=tuple([uses.places[number].region or "" for number in region_numbers.tolist()]),
            texts=texts,
            sources=sources,
            parts=parts,
            ended=tuple([number for number, source in enumerate(sources) if source in over]),
            compared=tuple([number for number, source in enumerate(sources) if source in compared]),
            call=call.astype("<u4").tobytes(),
            session=session.astype("<u4").tobytes(),
            region=region.astype("<u4").tobytes(),
            time=uses.time[chosen].astype("<u4").tobytes(),
            event=uses.event[chosen].astype("<u8").tobytes(),
            index=(places & INDEX_MAX).astype("<u4").tobytes(),
            arns=counts.astype("<u2").tobytes(),
            arn=arn.astype("<u4").tobytes(),
        )  # fmt: skip

    def _write_calls(
        self, calls: Iterable[Call]
    ) -> tuple[tuple[UsingPrincipal, ...], tuple[str, ...], tuple[UsingCall, ...]]:
        principals: dict[int, int] = {}
        actions: dict[int, int] = {}
        written: list[UsingPrincipal] = []
        using: list[UsingCall] = []
        for actor, effect in calls:
            number = principals.get(id(actor))
            if number is None:
                number = principals[id(actor)] = len(written)
                principal = actor.principal
                assert principal is not None  # noqa: S101 - an actor without one is excluded before
                written.append(UsingPrincipal(principal.arn, principal.unique_id, principal.kind))
            indexes = tuple([actions.setdefault(action, len(actions)) for action in effect.actions])
            using.append(UsingCall(number, effect.outcome, indexes))
        return tuple(written), tuple([self._names[action] for action in actions]), tuple(using)


def _write_arns(uses: Uses, chosen: Numbers) -> tuple[Numbers, tuple[str, ...], Numbers]:
    """How many ARNs each use names, their texts, and which ones the uses name, one use after the other."""
    begins, ends = uses.arns_from[chosen], uses.arns_to[chosen]
    counts = np.minimum(ends - begins, 2**16 - 1)
    total = int(counts.sum())
    if not total:
        return counts, (), np.zeros(0, np.int64)
    places = np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(total)
    _, firsts, which = np.unique(uses.arn_hashes[places], return_index=True, return_inverse=True)
    assert uses.batch is not None  # noqa: S101 - ARNs come with the batch that has their texts
    return counts, tuple(uses.batch.read_arns(places[firsts])), which


def _write_parts(
    owners: Numbers, sequences: Numbers, slices: Sequence[SliceRows]
) -> tuple[tuple[bytes, ...], tuple[Part, ...]]:
    """The sources, and the slices that the uses are of."""
    bounds = np.flatnonzero(np.diff(owners) | np.diff(sequences)) + 1
    begins = [0, *bounds.tolist()]
    ends = [*bounds.tolist(), len(owners)]
    sources: dict[bytes, int] = {}
    parts: list[Part] = []
    for begin, end in zip(begins, ends, strict=True):
        found = slices[int(owners[begin])]
        sequence = found.base + int(sequences[begin]).to_bytes(SEQUENCE_BYTES, "big")
        parts.append(Part(sources.setdefault(found.source, len(sources)), sequence, end - begin))
    return tuple(sources), tuple(parts)
