"""The values of the store: cells, principals and positions, to bytes and back."""

from dataclasses import dataclass
from struct import Struct as Packer

import msgspec

from processor.core.principals import Principal
from processor.core.records import TIME_MAX
from processor.core.stream import SLICING
from processor.core.usage import Cell

_CELL = Packer("<IIIIII")
_DENIED = Packer("<IIIIIII")
_LARGE = Packer("<IIIIQQQ")
_SMALL_MAX = 2**32 - 1


def pack_cell(cell: Cell) -> bytes:
    """24 bytes: first, last, first and last success, count, count of last's day; 28 with denied; 40 where a count needs
    64 bits. All little-endian."""
    times = cell.first, cell.last, cell.first_success, cell.last_success
    if cell.count > _SMALL_MAX or cell.denied > _SMALL_MAX:
        return _LARGE.pack(*times, cell.count, cell.day_count, cell.denied)
    if cell.denied:
        return _DENIED.pack(*times, cell.count, cell.day_count, cell.denied)
    return _CELL.pack(*times, cell.count, cell.day_count)


def unpack_cell(packed: bytes, action: int) -> Cell:
    """The cell of `pack_cell`. Raises ValueError for bytes of another layout."""
    packer = _BY_SIZE.get(len(packed))
    if packer is None:
        raise ValueError(f"a cell of {len(packed)} bytes: the store was written by another version of gapwatch")
    cell = Cell(action)
    fields = packer.unpack(packed)
    cell.first, cell.last, cell.first_success, cell.last_success, cell.count, cell.day_count = fields[:6]
    if len(fields) > 6:
        cell.denied = fields[6]
    cell.facets = None
    return cell


_BY_SIZE = {packer.size: packer for packer in (_CELL, _DENIED, _LARGE)}


def pack_principal(principal: Principal) -> bytes:
    """msgpack of ARN, unique id, kind."""
    return msgspec.msgpack.encode((principal.arn, principal.unique_id, principal.kind))


def unpack_principal(packed: bytes) -> Principal:
    arn, unique_id, kind = msgspec.msgpack.decode(packed, type=tuple[str, str | None, str])
    return Principal(arn, unique_id, arn.split(":", 5)[4], kind)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file that is read whole is applied: `index` records; `whole` when that is all; `until` where newer records
    than that were counted, but not applied (`cut`)."""

    index: int
    whole: bool
    cut: bool = False
    until: int = TIME_MAX

    def pack(self) -> bytes:
        return _POSITION.pack(SLICING, self.whole * _WHOLE + self.cut * _CUT, self.until, self.index)


_POSITION = Packer("<BBIQ")
_WHOLE, _CUT = 1, 2


def unpack_position(packed: bytes | None) -> Position:
    """A stored position; the beginning where there is none, or one of another way of cutting slices."""
    if packed is None or len(packed) != _POSITION.size or packed[0] != SLICING:
        return Position(0, whole=False)
    _, flags, until, index = _POSITION.unpack(packed)
    return Position(index, bool(flags & _WHOLE), bool(flags & _CUT), until)
