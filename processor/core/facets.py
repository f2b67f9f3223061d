"""What is kept of a cell's uses beside their numbers: a few values of each facet, and marks where there were more.

A store holds some million of them, so that they are kept packed: as text a value takes four times the memory.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

NAMES = ("operators", "regions", "resources", "vias")
OPERATOR, REGION, RESOURCE, VIA = range(4)

FACETS_MAX = 16
"""Operators, regions, resources and services that are kept of a cell, each; what is more only sets a mark."""

FACET_CHARS_MAX = 512


class Facets(NamedTuple):
    """A cell's values, in the order that they were met in. Bit N of `overflow`: of facet N (an index of NAMES) there were more
    than are kept. In this order they stand in a store, as msgpack."""

    operators: list[str]
    regions: list[str]
    resources: list[str]
    vias: list[str]
    overflow: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[list[str], list[str], list[str], list[str], int])


def pack_facets(facets: Facets) -> bytes:
    return _ENCODER.encode(facets)


def unpack_facets(packed: bytes, fresh: Sequence[Any] = ()) -> Facets:
    """The facets of `pack_facets` (none where `packed` is empty), and what came to them since: `fresh` is facet and value by
    turns. Raises msgspec.ValidationError for bytes of another layout."""
    operators, regions, resources, vias, overflow = _DECODER.decode(packed) if packed else ([], [], [], [], 0)
    values: tuple[list[str], ...] = operators, regions, resources, vias
    for facet, value in zip(fresh[::2], fresh[1::2], strict=True):
        kept = values[facet]
        if value not in kept:
            if len(kept) < FACETS_MAX:
                kept.append(value)
            else:
                overflow |= 1 << facet
    return Facets(operators, regions, resources, vias, overflow)
