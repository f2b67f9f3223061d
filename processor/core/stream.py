"""A stream of bytes -> decoded slices, in bounded memory, whatever JSON form the stream has.

The stream is a sequence of JSON values: log files (`{"Records":[…]}`), `LookupEvents` output (`{"Events":[…]}`), arrays,
documents that go over many lines, or one value a line. Log files and lines are scanned in slices of about 1 MB, in place;
what a slice's end cuts is scanned again with the next. Where the text is no JSON, the elements are found one by one, and
what is between them is rejected.
"""

import re
from collections.abc import Iterable, Iterator

from processor.core.batches import Decoded, decode_apart, decode_lines, decode_text, take_in
from processor.core.envelopes import is_crowd, judge_elements, judge_value
from processor.core.records import Rejected
from processor.core.scan import BROKEN, CLOSED, FULL

SLICE_BYTES = 512 * 1024
"""A scan's start costs what some tens of records do."""

ELEMENT_BYTES_MAX = 32 * 1024 * 1024
"""A single value that is longer is rejected: CloudTrail's records are at most 256 KB, a whole log file some 50 MB."""

DEPTH_MAX = 512
"""CloudTrail's records nest to 11; what nests deeper than this is no JSON that anything here would decode."""

TRAILING_TOKENS_MAX = 4_096
"""Keys, values, commas and colons behind an array of records: AWS writes a NextToken at most. What follows is rejected."""

SLICING = 2
"""Goes up when slices are cut differently, so that no position from another way of cutting is trusted."""

_ARRAY_OF = re.compile(rb'\{\s*"(?:Records|Events)"\s*:\s*\[')
_RESTART = re.compile(_ARRAY_OF.pattern + rb'|(?<=\n)\{"')
_SPACE = re.compile(rb"\s*(?:\xef\xbb\xbf\s*)*")
_WHITE = re.compile(rb"\s*")
_OBJECT_LINE = re.compile(rb"\n\s*(?=\{)")
_SPACE_OR_COMMAS = re.compile(rb"[\s,]*")
_TOKEN = re.compile(rb'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*("?)|[{}\[\]]')
_SCALAR_END = re.compile(rb"[\s,\]}\[{\"]")


class Buffer:
    """The part of a stream that is in memory: `bytes` from `at` on are not yet used. `restarted` says that the last array
    was broken, and that `at` is where something new begins; `opens_line` that only white space stands before `at` on its line."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.bytes = b""
        self.at = 0
        self._chunks = iter(chunks)
        self.ended = False
        self.restarted = False
        self.opens_line = True

    def extend(self) -> bool:
        """Take one more chunk; False at the end of the stream."""
        chunk = next(self._chunks, None)
        if chunk is None:
            self.ended = True
            return False
        self.bytes = self.bytes[self.at :] + chunk if self.at < len(self.bytes) else chunk
        self.at = 0
        return True

    def hold(self, size: int) -> None:
        """Have at least `size` unused bytes where the stream has them."""
        while not self.ended and len(self.bytes) - self.at < size:
            self.extend()

    def skip_space(self) -> bool:
        """Go to the next byte that is no white space; False at the end of the stream."""
        self.opens_line = False
        while True:
            begin = self.at
            self.at = _SPACE.match(self.bytes, begin).end()  # type: ignore[union-attr]  # matches the empty string
            self.opens_line = self.opens_line or self.bytes.find(b"\n", begin, self.at) >= 0
            if self.at < len(self.bytes):
                return True
            if not self.extend():
                return False


def decode_stream(chunks: Iterable[bytes]) -> Iterator[Decoded]:
    """Every record of a stream, in order, slice by slice. Never raises for what the bytes are."""
    buffer = Buffer(chunks)
    buffer.hold(SLICE_BYTES)
    while buffer.skip_space():
        buffer.hold(SLICE_BYTES)
        start = _ARRAY_OF.match(buffer.bytes, buffer.at)
        if start is not None:
            buffer.at = start.end()
            buffer.restarted = False
            yield from _decode_array(buffer)
            if not buffer.restarted and not _leave_object(buffer):
                yield _reject_rest(buffer)
        elif buffer.bytes[buffer.at] == 0x5B:
            buffer.at += 1
            yield from _decode_array(buffer)
        elif _holds_line(buffer):
            yield from _decode_lines(buffer)
        else:
            yield _decode_document(buffer)


def _decode_array(buffer: Buffer) -> Iterator[Decoded]:
    """The elements from here to the end of the array that `buffer.at` is in."""
    size = SLICE_BYTES
    while size <= 2 * ELEMENT_BYTES_MAX:
        buffer.hold(size)
        end = min(len(buffer.bytes), buffer.at + size)
        found, at, ending = decode_text(buffer.bytes, buffer.at, end)
        moved = at > buffer.at
        buffer.at = at
        if found.read:
            yield found
        if ending == CLOSED:
            return
        if ending == BROKEN or (ending != FULL and buffer.ended and end == len(buffer.bytes)):
            break
        size = SLICE_BYTES if moved else 2 * size
    yield from _scan_array(buffer)


def _scan_array(buffer: Buffer) -> Iterator[Decoded]:
    """The rest of an array, its elements found one by one. What is cut off at the end is one reject."""
    raws: list[bytes] = []
    size = 0
    closed = False
    while buffer.skip_space():
        byte = buffer.bytes[buffer.at]
        if byte == 0x2C:
            buffer.at = _SPACE_OR_COMMAS.match(buffer.bytes, buffer.at).end()  # type: ignore[union-attr]  # as above
            continue
        if byte == 0x5D:
            buffer.at += 1
            closed = True
            break
        raw = _take_value(buffer)
        if raw is None:
            break
        raws.append(raw)
        size += len(raw)
        if size >= SLICE_BYTES:
            yield take_in(judge_elements(raws))
            raws, size = [], 0
    if raws:
        yield take_in(judge_elements(raws))
    if not closed:
        yield _reject_rest(buffer)


def _take_value(buffer: Buffer) -> bytes | None:
    """The JSON value that starts at `buffer.at`, used up; None where it is broken, cut off or too long."""
    size = SLICE_BYTES
    while True:
        buffer.hold(size)
        end = scan_value(buffer.bytes, buffer.at)
        if end > 0:
            raw = buffer.bytes[buffer.at : end]
            buffer.at = end
            return raw
        if end < 0 or buffer.ended or size > ELEMENT_BYTES_MAX:
            return None
        size *= 2


def scan_value(text: bytes, at: int) -> int:
    """The end of the JSON value at `at`: 0 where the text ends first, -1 where it is broken."""
    if text[at] not in b'{["':
        end = _SCALAR_END.search(text, at)
        return 0 if end is None else (end.start() if end.start() > at else -1)
    depth = 0
    for token in _TOKEN.finditer(text, at):
        byte = text[token.start()]
        if byte == 0x22:
            if not token.group(1):
                return 0 if token.end() >= len(text) - 1 else -1
        elif byte in b"{[":
            depth += 1
            if depth > DEPTH_MAX:
                return -1
        else:
            depth -= 1
        if depth <= 0:
            return token.end()
    return 0


def _leave_object(buffer: Buffer) -> bool:
    """Go behind the `}` of the object whose array was read; other keys (NextToken) are passed over. False where something
    else follows, so that this was no object of an array, or a broken one. An object that opens a line is the next of many lines,
    of which this one was cut off: where a key or a plain value is due there can be none."""
    for token in range(TRAILING_TOKENS_MAX):
        if not buffer.skip_space():
            return True
        byte = buffer.bytes[buffer.at]
        if byte == 0x7D:
            buffer.at += 1
            return True
        if byte == 0x7B and buffer.opens_line:
            return True
        if token == 0 and byte != 0x2C:
            return False
        if byte in b",:":
            buffer.at += 1
        elif _take_value(buffer) is None:
            return True
    return True


def _holds_line(buffer: Buffer) -> bool:
    """Whether the line at `buffer.at` holds a whole value or a broken one; else a value goes over many lines."""
    end = _find_newline(buffer)
    if end is None:
        return True
    line = buffer.bytes[buffer.at : end]
    if scan_value(line + b" ", 0) != 0 or end == len(buffer.bytes):
        return True
    follower = _WHITE.match(buffer.bytes, end).end()  # type: ignore[union-attr]  # matches the empty string
    return _is_cut_off(line, buffer.bytes[follower : follower + 1])


def _is_cut_off(line: bytes, follower: bytes) -> bool:
    """Whether a line that ends inside an object was cut, not broken up for reading: no object starts a line but in an array.
    `follower` is the first byte behind it that is no white space."""
    return follower == b"{" and line.rstrip()[-1:] != b"[" and not line.lstrip().startswith(b"[")


def _decode_lines(buffer: Buffer) -> Iterator[Decoded]:
    """One value a line, from here to the end of the stream or to a line that opens an array of records."""
    while buffer.skip_space() and not _ARRAY_OF.match(buffer.bytes, buffer.at):
        buffer.hold(SLICE_BYTES)
        end = buffer.bytes.rfind(b"\n", buffer.at, buffer.at + SLICE_BYTES)
        if end < 0 and (found := _find_newline(buffer)) is None:
            yield _reject_line(buffer)
            continue
        end = end if end >= 0 else found or 0
        decoded, at = decode_lines(buffer.bytes, buffer.at, end)
        if decoded is not None:
            buffer.at = at
            yield decoded
            continue
        lines = bytes(buffer.bytes[buffer.at : end])
        if _ARRAY_OF.search(lines) is not None:
            lines = lines.partition(b"\n")[0]
        buffer.at += len(lines)
        yield decode_apart(_split_lines(lines))


def _find_newline(buffer: Buffer) -> int | None:
    """The end of the line at `buffer.at`, or None where it is longer than any value may be."""
    searched = buffer.at
    while (end := buffer.bytes.find(b"\n", searched)) < 0:
        if len(buffer.bytes) - buffer.at > ELEMENT_BYTES_MAX:
            return None
        seen = len(buffer.bytes) - buffer.at
        if not buffer.extend():
            return len(buffer.bytes)
        searched = buffer.at + seen
    return end


def _split_lines(lines: bytes) -> list[bytes]:
    return [value for line in lines.split(b"\n") if line and not line.isspace() for value in _split_line(line)]


def _split_line(line: bytes) -> list[bytes]:
    """The values of a line: one, as a rule, but Firehose and joined gzip members put documents behind each other. What
    cannot be told apart stays together, and is one reject. Where a joined file began there may be a byte order mark."""
    line = line[_SPACE.match(line).end() :]  # type: ignore[union-attr]  # as above
    joints = line.count(b"}{")
    if not joints or is_crowd(joints, len(line)):
        return [line] if line else []
    values: list[bytes] = []
    at = 0
    while at < len(line):
        end = scan_value(line, at)
        if end <= 0:
            return [*values, line[at:]]
        values.append(line[at:end])
        at = _SPACE.match(line, end).end()  # type: ignore[union-attr]  # matches the empty string
    return values


def _decode_document(buffer: Buffer) -> Decoded:
    """One value that goes over many lines; where it is broken, its first line is rejected and the next one looked at."""
    raw = _take_value(buffer)
    if raw is None:
        return _reject_line(buffer)
    judged = judge_value(raw)
    if judged.rejected and judged.rejected[0].reason == "undecodable" and _has_object_lines(raw):
        buffer.at -= len(raw)
        return _reject_line(buffer)
    return take_in(judged)


def _has_object_lines(raw: bytes) -> bool:
    """Whether a line behind the first is one or more whole objects: what is no JSON as a whole is lines then, of which the first
    was cut."""
    for found in _OBJECT_LINE.finditer(raw):
        stop = raw.find(b"\n", found.end())
        line = raw[found.end() : stop if stop > 0 else len(raw)]
        end = scan_value(line, 0)
        if end > 0 and line[end:].strip()[:1] in (b"", b"{"):
            return True
    return False


def _reject_line(buffer: Buffer) -> Decoded:
    """Reject the line at `buffer.at` and go behind it, however long it is."""
    sample = buffer.bytes[buffer.at : buffer.at + 4096]
    while (end := buffer.bytes.find(b"\n", buffer.at)) < 0:
        buffer.at = len(buffer.bytes)
        if not buffer.extend():
            end = len(buffer.bytes) - 1
            break
    buffer.at = end + 1
    return Decoded([], [], [Rejected("undecodable", sample.partition(b"\n")[0])])


def _reject_rest(buffer: Buffer) -> Decoded:
    """Reject what is left of a broken array, up to the next log file in the stream (another gzip member), the next line
    that opens an object, or the end."""
    sample = buffer.bytes[buffer.at : buffer.at + 4096]
    buffer.restarted = True
    buffer.at = min(buffer.at + 1, len(buffer.bytes))
    while (start := _RESTART.search(buffer.bytes, buffer.at)) is None:
        # What may be the beginning of `{"Records":[` stays in the buffer.
        buffer.at = max(buffer.at, len(buffer.bytes) - 64)
        if not buffer.extend():
            buffer.at = len(buffer.bytes)
            break
    else:
        buffer.at = start.start()
    return Decoded([], [], [Rejected("undecodable", sample)])
