"""Files, folders and stdin -> chunks of unzipped bytes, in bounded memory."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import deflate
from isal import igzip_lib, isal_zlib
from xxhash import xxh3_128

from processor.core.compiled import holds_member

SUFFIXES = (".json", ".jsonl", ".ndjson", ".gz")
STDIN = "-"

WHOLE_BYTES_MAX = 16 * 1024 * 1024
UNZIPPED_BYTES_MAX = 64 * 1024 * 1024
"""Up to these sizes a gzip file is unzipped at once, which is twice as fast: CloudTrail's own are far smaller."""

CHUNK_BYTES = 1024 * 1024

FILE_BYTES_MAX = 256 * 1024**3
"""A file that unzips to more is cut off there and said to be damaged: a bomb of bombs ends some time."""

_LOG_FILE = re.compile(r"_CloudTrail_[^_/]+_(\d{8}T\d{4}Z)_[^/]*$")
"""ACCOUNT_CloudTrail_REGION_YYYYMMDDTHHmmZ_UNIQUE.FORMAT (CloudTrail User Guide, log file name format)"""

_GZIP_MAGIC = b"\x1f\x8b"


class SourceError(Exception):
    """A path that cannot be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or stdin; `occurrence` counts how often the command named it before. `resolved` is its path without links, where
    that was asked for."""

    path: str
    occurrence: int
    resolved: str = ""

    @property
    def name(self) -> str:
        return "stdin" if self.path == STDIN else self.path


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file in a folder that is not read, and why."""

    path: str
    why: str


def find_sources(paths: Iterable[str]) -> tuple[list[Source], list[LeftOut]]:
    """All files below some paths, in the paths' order, each folder's sorted. Raises SourceError for a path that is not there."""
    found: list[Source] = []
    left_out: list[LeftOut] = []
    counts: dict[str, int] = {}
    for path in paths:
        for file, resolved in sorted(_walk(path, left_out), key=_order):
            counts[resolved] = counts.get(resolved, -1) + 1
            # Where both are the same text it is held once.
            found.append(Source(file, counts[resolved], file if resolved == file else resolved))
    return found, left_out


def _order(found: tuple[str, str]) -> tuple[str, str]:
    """Log files by the time in their names over all accounts and regions, as the events came; others by path, first."""
    path, _ = found
    log = _LOG_FILE.search(path)
    return (log.group(1) if log else "", path)


def _walk(path: str, left_out: list[LeftOut]) -> Iterator[tuple[str, str]]:
    """The files to read at a path, each with its path without links."""
    if path == STDIN:
        yield path, path
        return
    place = Path(path)
    if place.is_dir():
        above = os.path.join(path, "")  # noqa: PTH118 - a million files: texts are enough
        yield from _walk_folder(above, os.path.join(_resolve(above[:-1] or os.sep), ""), left_out)  # noqa: PTH118 - as above
    elif not place.exists():
        raise SourceError(f"{path}: no such file or folder")
    elif (why := _why_no_events(path)) is not None:
        left_out.append(LeftOut(path, why))
    else:
        yield path, resolve_file(path)


def _walk_folder(above: str, resolved: str, left_out: list[LeftOut]) -> Iterator[tuple[str, str]]:
    """The files below a folder, whose path is given with a slash at its end, as it is and without links. What the folder's entries
    say of links and folders spares asking for each."""
    files: list[tuple[str, bool]] = []
    folders: list[tuple[str, bool]] = []
    try:
        with os.scandir(above) as entries:
            for entry in entries:
                (folders if _is_folder(entry) else files).append((entry.name, entry.is_symlink()))
    except OSError:
        return  # As os.walk does with a folder that cannot be read.
    for name, is_link in sorted(files):
        file = above + name
        why = why_left_out(file)
        if why is None:
            yield file, os.path.realpath(file) if is_link else resolved + name
        else:
            left_out.append(LeftOut(file, why))
    for name, is_link in sorted(folders):
        folder = above + name
        below = os.path.join(os.path.realpath(folder), "") if is_link else f"{resolved}{name}/"  # noqa: PTH118 - as above
        yield from _walk_folder(f"{folder}/", below, left_out)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def why_left_out(path: str) -> str | None:
    """Why a file in a folder is not read, None where it is."""
    if not path.lower().endswith(SUFFIXES):
        return f"not named {', '.join(SUFFIXES)}"
    return _why_no_events(path)


def _why_no_events(path: str) -> str | None:
    for kind in ("CloudTrail-Digest", "CloudTrail-Insight"):
        if f"/{kind}/" in path or f"_{kind}_" in path:
            return f"a {kind} file holds no events"
    return None


class SourceReader:
    """The unzipped bytes of one source, chunk by chunk. After the last one `damage` says what was wrong, if anything.

    `file`: the bytes, where they are not to be read at the source's path.
    """

    def __init__(self, source: Source, file: BinaryIO | None = None) -> None:
        self.source = source
        self.damage: str | None = None
        self.size = 0
        self._whole: bytes | None = None
        try:
            self._file: BinaryIO = file or (
                sys.stdin.buffer if source.path == STDIN else open(source.path, "rb")  # noqa: SIM115, PTH123 - closed by close(); a million files: texts are enough
            )
        except OSError as error:
            raise SourceError(f"{source.path}: {error.strerror}") from error

    def identify(self) -> bytes | None:
        """16 bytes for path, occurrence and content; None for stdin, whose content cannot be known beforehand."""
        if self.source.path == STDIN:
            return None
        digest = xxh3_128(
            f"{self.source.resolved or resolve_file(self.source.path)}\0{self.source.occurrence}\0".encode()
        )
        try:
            # A read gets memory of the length that it asks for first: far more than most files have.
            wanted = min(os.fstat(self._file.fileno()).st_size + 1, WHOLE_BYTES_MAX)
            self._whole = self._file.read(wanted)
            digest.update(self._whole)
            self.size = len(self._whole)
            if self.size == wanted:
                self._whole = None
                while chunk := self._file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    self.size += len(chunk)
                self._file.seek(0)
        except OSError as error:
            raise SourceError(f"{self.source.path}: {error.strerror}") from error
        return digest.digest()

    def __iter__(self) -> Iterator[bytes]:
        whole = self._whole
        self._whole = None
        try:
            if whole is None:
                yield from self._unzip_chunks()
            elif not whole.startswith(_GZIP_MAGIC):
                yield whole
            elif (unzipped := unzip_whole(whole)) is not None:
                yield unzipped
            else:
                yield from self._unzip(_cut(whole))
        except OSError as error:
            self.damage = f"cannot be read on: {error.strerror}"
        finally:
            self.close()

    def _unzip_chunks(self) -> Iterator[bytes]:
        first = self._file.read(CHUNK_BYTES)
        if first.startswith(_GZIP_MAGIC):
            yield from self._unzip(_chain(first, self._file))
        else:
            yield from _chain(first, self._file)

    def _unzip(self, zipped: Iterator[bytes]) -> Iterator[bytes]:
        """Members one after the other; a broken one ends the file, and what came before it counts."""
        total = 0
        rest = next(zipped, b"")
        while rest:
            if not rest.startswith(_GZIP_MAGIC[: len(rest)]):
                if rest.strip(b"\0"):
                    self.damage = "has bytes behind its end that are no gzip"
                return
            member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            while not member.eof:
                try:
                    chunk = member.decompress(rest, CHUNK_BYTES)
                except (isal_zlib.error, EOFError, ValueError) as error:  # type: ignore[misc]  # its stub lacks the base
                    self.damage = f"is damaged: {error}"
                    return
                rest = b""
                if chunk:
                    total += len(chunk)
                    yield chunk
                if total > FILE_BYTES_MAX:
                    self.damage = f"unzips to more than {FILE_BYTES_MAX} bytes"
                    return
                if not member.eof and member.needs_input:
                    rest = next(zipped, b"")
                    if not rest:
                        self.damage = "is cut off"
                        return
            rest = bytes(member.unused_data) or next(zipped, b"")

    def close(self) -> None:
        if self.source.path != STDIN:
            self._file.close()


def unzip_whole(zipped: bytes) -> bytes | None:
    """A small gzip file of one member at once, or None where it must be taken in chunks.

    The size at a gzip's end is trusted only where no second member may begin: libdeflate ends after the first.
    """
    size = int.from_bytes(zipped[-4:], "little")
    if not len(zipped) < size <= UNZIPPED_BYTES_MAX or holds_member(zipped, 1):
        return None
    try:
        unzipped = deflate.gzip_decompress(zipped)
    except (deflate.DeflateError, ValueError):  # ValueError: a header of an unknown kind
        return None
    return cast("bytes", unzipped) if len(unzipped) == size else None


@lru_cache(maxsize=4_096)
def _resolve(path: str) -> str:
    """A folder's path without links in it; what many have in common is asked for once."""
    above, name = os.path.split(path)
    if os.path.islink(path) or not name or name in (".", ".."):  # noqa: PTH114 - a million files: texts are enough
        return os.path.realpath(path)
    return os.path.join(_resolve(above or os.curdir), name)  # noqa: PTH118 - as above


def resolve_file(path: str) -> str:
    """A file's path without links in it."""
    above, name = os.path.split(path)
    if os.path.islink(path):  # noqa: PTH114 - as above
        return os.path.realpath(path)
    return os.path.join(_resolve(above or os.curdir), name)  # noqa: PTH118 - as above


def _cut(whole: bytes) -> Iterator[bytes]:
    for at in range(0, len(whole), CHUNK_BYTES):
        yield whole[at : at + CHUNK_BYTES]


def _chain(first: bytes, file: BinaryIO) -> Iterator[bytes]:
    while first:
        yield first
        first = file.read(CHUNK_BYTES)
