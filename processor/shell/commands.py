"""Redis commands as a flush sends them: packed for the script that runs them."""

import itertools
from collections.abc import Iterable, Iterator
from struct import Struct as Packer
from typing import Any, NamedTuple

from processor.pausing import Pauses

ARGUMENTS_MAX = 4_000
"""Of one command in a flush: Lua's unpack takes some 8,000. Even, so that fields stay with their values."""

PACKED_A_STEP = 1_000

Command = tuple[Any, ...]


class Packed(NamedTuple):
    """So many commands, packed and split already."""

    commands: int
    value: bytes


def pack_commands(commands: list[Command]) -> bytes:
    """msgpack of lists of raw strings, which is what Redis' Lua reads: it knows no binary type, msgspec writes one."""
    return count_commands(len(commands)) + pack_some(commands)


async def pack_in_turns(commands: list[Command], more: Iterable[Packed] = ()) -> bytes:
    """As `pack_commands`, with long commands split; others go on in between where there is much of it. `more` come last."""
    pauses, count, parts = Pauses(), 0, []
    for at in range(0, len(commands), PACKED_A_STEP):
        split = [part for command in commands[at : at + PACKED_A_STEP] for part in split_command(command)]
        count += len(split)
        parts.append(pack_some(split))
        await pauses.pause()
    for packed in more:
        count += packed.commands
        parts.append(packed.value)
    return b"".join((count_commands(count), *parts))


def count_commands(count: int) -> bytes:
    """What stands before so many packed commands."""
    return _LONG_LIST.pack(0xDD, count)


def pack_some(commands: Iterable[Command]) -> bytes:
    """As `pack_commands`, without the count."""
    packed = []
    for command in commands:
        parts = [part if type(part) is bytes else _encode(part) for part in command]
        sizes = list(map(len, parts))
        heads = map(_HEADS.__getitem__, sizes) if max(sizes) < len(_HEADS) else map(_head, sizes)
        packed.append(_LONG_LIST.pack(0xDD, len(parts)))
        packed.append(b"".join(itertools.chain.from_iterable(zip(heads, parts, strict=True))))
    return b"".join(packed)


def _encode(part: bytes | str | int) -> bytes:
    return _SMALL[part] if type(part) is int and 0 <= part < len(_SMALL) else str(part).encode()


def _head(size: int) -> bytes:
    return _HEADS[size] if size < len(_HEADS) else _LONG_LIST.pack(0xDB, size)


_SMALL = [str(number).encode() for number in range(1_000)]
_LONG_LIST = Packer(">BI")
_HEADS = [bytes((0xA0 | size,)) for size in range(32)] + [b"\xda" + size.to_bytes(2, "big") for size in range(32, 4096)]


def split_command(command: Command) -> Iterator[Command]:
    """A command in parts that fit onto Lua's stack: HSET and HDEL take any number of fields."""
    if len(command) <= ARGUMENTS_MAX:
        yield command
        return
    for at in range(2, len(command), ARGUMENTS_MAX):
        yield (*command[:2], *command[at : at + ARGUMENTS_MAX])
