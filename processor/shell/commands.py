"""Redis commands as a flush sends them: packed for the script that runs them."""

import itertools
from collections.abc import Iterator
from struct import Struct as Packer
from typing import Any

ARGUMENTS_MAX = 4_000
"""Of one command in a flush: Lua's unpack takes some 8,000. Even, so that fields stay with their values."""

Command = tuple[Any, ...]


def pack_commands(commands: list[Command]) -> bytes:
    """msgpack of lists of raw strings, which is what Redis' Lua reads: it knows no binary type, msgspec writes one."""
    packed = [_LONG_LIST.pack(0xDD, len(commands))]
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
