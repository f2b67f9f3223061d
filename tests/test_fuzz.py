"""Mutated records through the whole of the core: nothing raises, all is counted, and no neighbour counts as something else.

100,000 inputs by default; `GAPWATCH_FUZZ=1000000 pytest tests/test_fuzz.py` for more, `GAPWATCH_FUZZ_SEED=N` for those of a
failure, whose message has its seed. Between the mutated records stand good ones by a role of their own, the neighbours.
"""

import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from building import ACCOUNT, build_record
from conftest import SHARED

from processor.core.actions import ActionMap
from processor.core.batches import Decoded
from processor.core.horizon import Horizon
from processor.core.records import TIME_MAX
from processor.core.sessions import Scope
from processor.core.stream import decode_stream
from processor.core.usage import NEVER, NOT_YET
from processor.pipeline import Pipeline
from processor.shell.tables import load_action_rules, load_catalogue

INPUTS = int(os.environ.get("GAPWATCH_FUZZ", "100000"))
SEED = int(os.environ.get("GAPWATCH_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
BATCH = 40
BATCHES_A_PIPELINE = 100
RECORD_BYTES_MAX = 8_000
RECORDS_A_FILE = 60

START = 1_772_323_200
NEIGHBOUR = f"arn:aws:iam::{ACCOUNT}:role/neighbour"
NEIGHBOUR_ID = "AROANEIGHBOUR"
ACTIONS = ActionMap(load_catalogue(), load_action_rules())


# --- what is mutated ---------------------------------------------------------------------------------------------------


def build_own_records() -> Iterator[dict[str, Any]]:
    """Records of every class and with every part that the core reads, for where the shared ones are missing."""
    arn = f"arn:aws:iam::{ACCOUNT}:role/worker"
    yield build_record(1, START)
    yield build_record(2, START, errorCode="Client.UnauthorizedOperation", errorMessage="no")
    yield build_record(3, START, eventType="AwsServiceEvent")
    yield build_record(4, START, eventSource="signin.amazonaws.com", eventName="ConsoleLogin")
    yield build_record(5, START, userIdentity={"type": "AWSService", "invokedBy": "ec2.amazonaws.com"})
    yield build_record(
        6, START, userIdentity={"type": "Root", "arn": f"arn:aws:iam::{ACCOUNT}:root", "principalId": ACCOUNT}
    )
    user = {"type": "IAMUser", "arn": f"arn:aws:iam::{ACCOUNT}:user/bob", "principalId": "AIDABOB", "userName": "bob"}
    yield build_record(7, START, userIdentity=user, sharedEventID="shared-7")
    issuer = {"type": "IAMUser", "arn": user["arn"], "principalId": "AIDABOB"}
    federated = {"type": "FederatedUser", "principalId": f"{ACCOUNT}:eve", "sessionContext": {"sessionIssuer": issuer}}
    yield build_record(8, START, userIdentity=federated)
    passing = {"eventSource": "lambda.amazonaws.com", "eventName": "CreateFunction20150331"}
    yield build_record(9, START, requestParameters={"role": arn, "tags": {"a": "b"}}, **passing)
    copied = {"eventSource": "s3.amazonaws.com", "eventName": "CopyObject", "resources": [{"ARN": "arn:aws:s3:::b/k"}]}
    yield build_record(10, START, requestParameters={"x-amz-copy-source": "b/k", "key": "\u202f\U0001f600"}, **copied)
    statement = {"eventSource": "dynamodb.amazonaws.com", "eventName": "ExecuteStatement"}
    yield build_record(11, START, requestParameters={"statement": "SELECT * FROM t"}, **statement)
    yield build_record(12, START, eventName="NoSuchCall", requestParameters={"at": 1.68e9})


def read_shared_records() -> Iterator[bytes]:
    """The first records of each shared file, none if they are not here."""
    for path in sorted((SHARED / "cloudtrail").glob("*.ndjson.gz")):
        with gzip.open(path) as lines:
            for number, line in enumerate(lines):
                if number >= RECORDS_A_FILE:
                    break
                if len(line) <= RECORD_BYTES_MAX:
                    yield line.strip()


def read_seeds(*, shared: bool) -> list[bytes]:
    own = [json.dumps(record, separators=(",", ":")).encode() for record in build_own_records()]
    found = own + list(read_shared_records()) if shared else own
    return [seed for seed in found if b"\n" not in seed and NEIGHBOUR.encode() not in seed]


# --- mutations of bytes ------------------------------------------------------------------------------------------------

TOKENS = (
    b"", b"\xff", b"\x00", b"\r", b"\x1f\x8b\x08", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"1e999",
    b"-", b"NaN", b"9" * 400, rb"\ud800", rb"\udc00\ud800", rb"\u0000", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"{}", b"[]", b'""',
    b'},{"eventVersion":', b'{"Records":[]}', b"[" * 600, b"[" * 5_000 + b"]" * 5_000, b'{"a":' * 2_000, b'"eventID":"twice",',
    b'"userIdentity":null,', b'"eventTime":"9999-12-31T23:59:59Z",', b'"eventTime":5,', b'"CloudTrailEvent":"{}",', b'"detail":{},',
)  # fmt: skip

Mutation = Callable[[random.Random, bytearray], None]


def flip_bits(rng: random.Random, text: bytearray) -> None:
    for _ in range(rng.randrange(1, 5)):
        text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)


def cut_end(rng: random.Random, text: bytearray) -> None:
    del text[rng.randrange(len(text)) :]


def cut_span(rng: random.Random, text: bytearray) -> None:
    start = rng.randrange(len(text))
    del text[start : start + rng.randrange(1, 60)]


def repeat_span(rng: random.Random, text: bytearray) -> None:
    start = rng.randrange(len(text))
    text[start:start] = text[start : start + rng.randrange(1, 200)]


def insert_token(rng: random.Random, text: bytearray) -> None:
    start = rng.randrange(len(text))
    text[start : start + rng.randrange(3)] = rng.choice(TOKENS)


def insert_behind_structure(rng: random.Random, text: bytearray) -> None:
    """Where a token is most likely to be read as one: behind a brace, a comma or a colon."""
    place = text.find(rng.choice((b"{", b",", b":")), rng.randrange(len(text)))
    text[place + 1 : place + 1] = rng.choice(TOKENS)


MUTATIONS: tuple[Mutation, ...] = (flip_bits, cut_end, cut_span, repeat_span, insert_token, insert_behind_structure)


def mutate_bytes(rng: random.Random, seed: bytes) -> bytes:
    """A line: one to three mutations, without line ends."""
    text = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if text:
            rng.choice(MUTATIONS)(rng, text)
    return bytes(text).replace(b"\n", b" ")


# --- mutations of values -----------------------------------------------------------------------------------------------


def build_deep(depth: int) -> Any:
    deep: Any = []
    for _ in range(depth):
        deep = [deep]
    return deep


VALUES = (
    None, True, 0, -1, 1.5, 2**70, -(2**70), 1e308, "", " ", "x" * 3_000, "\ud800", "\x00", "...", "--", "null", [], {}, [None],
    [[]], {"a": None}, {"sessionIssuer": {}}, {"sessionIssuer": 5}, [{"ARN": 5}], ["x"], "AssumedRole", "Insight",
    "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "AccessDenied", "arn:aws:iam::1:role/x",
    build_deep(100), {"roleArn": "arn:aws:iam::111122223333:role/y", "tags": []}, "signin.amazonaws.com", "s3.amazonaws.com",
)  # fmt: skip
KEYS = (
    "eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "errorCode", "requestParameters",
    "eventID", "resources", "eventType", "recipientAccountId", "sharedEventID", "eventCategory", "detail", "logEvents", "Records",
    "Events", "CloudTrailEvent", "Sns", "body",
)  # fmt: skip
IN_CALLER = ("type", "principalId", "arn", "accountId", "userName", "sessionContext", "invokedBy")


def mutate_values(rng: random.Random, seed: dict[str, Any]) -> bytes:
    """JSON still: keys deleted, of another type, in another order or twice."""
    record = dict(seed)
    for _ in range(rng.choice((1, 1, 2, 3))):
        change = rng.randrange(5)
        if change == 0:
            record.pop(rng.choice(KEYS), None)
        elif change == 1:
            record[rng.choice(KEYS)] = rng.choice(VALUES)
        elif change == 2 and isinstance(record.get("userIdentity"), dict):
            record["userIdentity"] = {**record["userIdentity"], rng.choice(IN_CALLER): rng.choice(VALUES)}
        elif change == 3:
            record = dict(rng.sample(list(record.items()), len(record)))
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2 and len(record) > 1:
        again = json.dumps({rng.choice(KEYS): rng.choice(VALUES)}, separators=(",", ":")).encode()
        text = text[:-1] + b"," + again[1:]
    return text


# --- batches -----------------------------------------------------------------------------------------------------------


class Fuzzed:
    """A pipeline that is fed with batches, and what must be true of it afterwards."""

    def __init__(self, rng: random.Random, *, long_running: bool) -> None:
        horizon = Horizon(3_600, 4) if long_running else Horizon()
        self.pipeline = Pipeline(ACTIONS, Scope(), {}, horizon)
        # What is ahead, but not rejected for it, moves the horizon: not so far that a neighbour would be late.
        self.pipeline.intake.future = START + 4 * 3_600 - 1 if long_running else TIME_MAX
        self.rng = rng
        self.read = 0
        self.neighbours = 0

    def build_neighbour(self) -> bytes:
        self.neighbours += 1
        record = build_record(self.neighbours, START + self.neighbours % 7_200, eventID=f"neighbour-{self.neighbours}")
        record["userIdentity"] = {
            "type": "AssumedRole",
            "principalId": f"{NEIGHBOUR_ID}:ann",
            "sessionContext": {"sessionIssuer": {"type": "Role", "principalId": NEIGHBOUR_ID, "arn": NEIGHBOUR}},
        }
        return json.dumps(record, separators=(",", ":")).encode()

    def feed(self, stream: bytes) -> None:
        size = self.rng.choice((len(stream), 100, 4_096, 65_536)) or 1
        for decoded in decode_stream(stream[at : at + size] for at in range(0, len(stream), size)):
            self.read += decoded.read
            self.pipeline.feed(decoded)

    def check(self) -> None:
        tally, ledger = self.pipeline.tally, self.pipeline.ledger
        assert tally.read == self.read
        assert sum(tally.rejected.values()) == tally.classes["rejected"] == len(self.pipeline.intake.rejects)
        assert sum(tally.unmapped.values()) == tally.classes["unmapped"]
        cells = [cell for usage in ledger.principals.values() for cell in usage.cells.values()]
        for cell in cells:
            assert cell.count >= 0
            assert (cell.first == NOT_YET) == (cell.last == NEVER)
            assert cell.first <= cell.first_success
            assert cell.last >= cell.last_success
        own = [usage for usage in ledger.principals.values() if usage.principal.arn == NEIGHBOUR]
        assert sum(cell.count for usage in own for cell in usage.cells.values()) == self.neighbours


def interleave(fuzzed: Fuzzed, mutated: list[bytes]) -> list[bytes]:
    """A good record first, and then behind every fourth."""
    elements = [fuzzed.build_neighbour()]
    for number, element in enumerate(mutated):
        elements.append(element)
        if number % 4 == 3:
            elements.append(fuzzed.build_neighbour())
    return elements


def sum_up(slices: Iterator[Decoded]) -> tuple[Counter[str], int, Counter[str]]:
    ids: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    not_iam = 0
    for decoded in slices:
        ids.update(record.eventID for record in decoded.records)
        reasons.update(reject.reason for reject in decoded.rejected)
        not_iam += len(decoded.not_iam)
    return ids, not_iam, reasons


def assert_lines_stand_alone(lines: list[bytes]) -> None:
    """Lines come to the same together as each does alone, behind the good one that says that there are lines."""
    first, *others = lines
    together = sum_up(decode_stream([b"\n".join(lines)]))
    alone = sum_up(decoded for line in others for decoded in decode_stream([first + b"\n" + line]))
    alone[0][json.loads(first)["eventID"]] = 1
    assert together == alone


def fuzz(rng: random.Random, seeds: list[bytes], inputs: int) -> None:
    """Batches of lines of mutated bytes, of lines and of log files of mutated values, in turns."""
    objects = [whole for seed in seeds if isinstance(whole := json.loads(seed), dict)]
    fuzzed = Fuzzed(rng, long_running=False)
    for number in range(-(-inputs // BATCH)):
        if number % BATCHES_A_PIPELINE == 0:
            fuzzed.check()
            fuzzed = Fuzzed(rng, long_running=number // BATCHES_A_PIPELINE % 2 == 1)
        if number % 3:
            elements = interleave(fuzzed, [mutate_bytes(rng, rng.choice(seeds)) for _ in range(BATCH)])
        else:
            elements = interleave(fuzzed, [mutate_values(rng, rng.choice(objects)) for _ in range(BATCH)])
        if number % 6 == 3:
            fuzzed.feed(b'{"Records":[' + b",".join(elements) + b"]}")
        else:
            fuzzed.feed(b"\n".join(elements))
            if number % 24 == 1:
                assert_lines_stand_alone(elements)
    fuzzed.check()


def run_seeded(seeds: list[bytes], inputs: int) -> None:
    """Parts of 10,000 inputs, each with a seed of its own, which is said where it fails."""
    for part, start in enumerate(range(0, inputs, 10_000)):
        seed = SEED + part
        try:
            fuzz(random.Random(seed), seeds, min(10_000, inputs - start))
        except BaseException as error:
            error.add_note(f"to see it again: GAPWATCH_FUZZ_SEED={seed} GAPWATCH_FUZZ=50000")
            raise


def test_mutations_of_own_records() -> None:
    print(f"GAPWATCH_FUZZ_SEED={SEED}")
    run_seeded(read_seeds(shared=False), INPUTS // 5)


@pytest.mark.slow
def test_mutations_of_shared_records(cloudtrail: Path) -> None:
    print(f"GAPWATCH_FUZZ_SEED={SEED}")
    run_seeded(read_seeds(shared=True), INPUTS - INPUTS // 5)


@pytest.mark.slow
def test_broken_log_files_raise_nothing() -> None:
    """Mutations of whole files, with no promise to the records behind one that is cut open; what came before it counts."""
    rng = random.Random(SEED)
    seeds = read_seeds(shared=True)
    for _ in range(INPUTS // 100):
        fuzzed = Fuzzed(rng, long_running=False)
        before = [fuzzed.build_neighbour() for _ in range(3)]
        behind = [rng.choice(seeds) for _ in range(3)]
        form = rng.choice((b'{"Records":[%s]}', b'{"Records":\n[\n%s\n]\n}', b"[%s]", b'{"Events":[%s]}'))
        opening, closing = form.split(b"%s")
        tail = mutate_bytes(rng, b",".join(behind) + closing)
        try:
            fuzzed.feed(opening + b",".join(before) + b"," + tail)
            fuzzed.check()
        except BaseException as error:
            error.add_note(f"to see it again: GAPWATCH_FUZZ_SEED={SEED}")
            raise
