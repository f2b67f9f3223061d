"""The topics' contract: examples are read, what is written comes back, and what is broken, newer or too large is refused."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from building import ACCOUNT, ROLE, ROLE_ID, build_holding, build_principal, build_small_catalogue
from hypothesis import given
from hypothesis import strategies as st

from processor.core.catalogue import STABLE_HASH_BYTES, stable_hash
from processor.core.gap import VERDICTS
from processor.core.principals import Principal
from processor.core.sessions import SHARDS, key_of
from processor.core.sessions import shard_of as core_shard_of
from processor.shell.grants import pack_grants, unpack_grants
from topics import TOPICS, alerts, contract, coverage, gap_changes, grants, rejected, uses
from topics.contract import Codec, ContractError, Topic, principal_key, shard_of

CODED: tuple[Any, ...] = (grants, coverage, gap_changes, alerts, rejected)
"""The modules whose messages have keys; `uses` has none."""

times = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**53)


def text(size_max: int, size_min: int = 1) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=size_min, max_size=size_max)


principals = {"arn": text(60), "unique_id": st.none() | text(20), "account_id": text(12)}
verdicts = st.none() | st.sampled_from(VERDICTS)


@st.composite
def coverages(draw: st.DrawFn) -> coverage.Coverage:
    edges = sorted(draw(st.sets(st.integers(0, 2**32 - 1), max_size=12)))
    if len(edges) % 2:
        edges.pop()
    spans = tuple(zip(edges[::2], edges[1::2], strict=True))
    names = text(12).filter(lambda found: "|" not in found and "\n" not in found)
    watermark = draw(st.integers(edges[-1] if edges else 0, 2**32 - 1))
    return coverage.Coverage(account_id=draw(names), region=draw(names), spans=spans, watermark=watermark)


@st.composite
def changes(draw: st.DrawFn) -> gap_changes.GapChange:
    hashes = draw(st.sets(st.binary(min_size=5, max_size=5), max_size=50))
    by_verdict = {name: draw(counts) for name in VERDICTS} | {"unused": len(hashes)}
    moved = draw(st.lists(st.builds(gap_changes.Moved, text(40, 3), verdicts, verdicts), max_size=5))
    return gap_changes.GapChange(
        as_of=draw(times),
        **{name: draw(strategy) for name, strategy in principals.items()},
        window=f"{draw(st.integers(1, 400))}d",
        why=draw(st.sampled_from(("use", "grant", "lapse", "catalogue"))),
        counts=gap_changes.VerdictCounts(**by_verdict),
        gap_index=draw(st.floats(0.1, 100)) if hashes else 0.0,
        moved=tuple(moved),
        moved_count=len(moved) + draw(st.integers(0, 9)),
        unused=b"".join(hashes),
    )


@st.composite
def raised(draw: st.DrawFn) -> alerts.Alert:
    starts_at = draw(times)
    labels = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True), text(20, 0), max_size=5)
    evidence = st.builds(
        alerts.Evidence,
        event_id=st.none() | text(36),
        event_time=times,
        operator=st.none() | text(64),
        region=st.none() | text(20),
    )
    kind = draw(st.sampled_from(("first_use", "unused_high_risk", "break_glass_use")))
    unused = kind == "unused_high_risk"
    return alerts.Alert(
        kind=kind,
        starts_at=starts_at,
        ends_at=draw(st.none() | st.integers(starts_at, 2**32 - 1)),
        **{name: draw(strategy) for name, strategy in principals.items()},
        action=None if unused else draw(text(40, 3)),
        risks=tuple(draw(st.lists(text(20), min_size=int(unused), max_size=1 if unused else 7))),
        evidence=draw(st.none() | evidence),
        labels=draw(labels),
        annotations=draw(labels),
    )


@st.composite
def rejects(draw: st.DrawFn) -> rejected.Reject:
    digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
    kept = st.builds(rejected.Undecodable, sha256=digests, head=st.binary(max_size=rejected.HEAD_BYTES_MAX))
    body = draw(st.fixed_dictionaries({"redacted": text(200, 0)}) | st.fixed_dictionaries({"undecodable": kept}))
    return rejected.Reject(
        time=draw(times),
        reason=draw(text(20)),
        source=draw(text(80)),
        position=draw(text(40, 0)),
        size=draw(counts),
        **body,
    )


held = st.builds(
    grants.PrincipalGrants,
    as_of=times,
    **principals,
    kind=st.sampled_from(("role", "user")),
    catalogue=text(20),
    packed=st.binary(min_size=1, max_size=200),
)
VALUES = {grants: held, coverage: coverages(), gap_changes: changes(), alerts: raised(), rejected: rejects()}


def name_of(module: Any) -> str:
    return str(module.TOPIC.name)


# --- examples and round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", CODED, ids=name_of)
def test_the_example_is_read_and_written_again(module: Any) -> None:
    example = module.TOPIC.example
    value = module.CODEC.decode(example.value)
    assert value.key == example.key
    assert module.TOPIC.partition_of(example.key) == example.partition
    assert module.CODEC.encode(value) == example.value


def test_the_other_form_of_a_reject_is_read() -> None:
    found = rejected.CODEC.decode(rejected.UNDECODABLE_EXAMPLE)
    assert found.undecodable is not None
    assert found.undecodable.head == b"hi!\xff\x00"
    assert rejected.CODEC.encode(found) == rejected.UNDECODABLE_EXAMPLE


@pytest.mark.parametrize("module", CODED, ids=name_of)
def test_what_is_written_comes_back(module: Any) -> None:
    @given(VALUES[module])
    def comes_back(value: Any) -> None:
        again = module.CODEC.decode(module.CODEC.encode(value))
        assert again == value
        assert again.key == value.key
        assert 0 <= module.TOPIC.partition_of(value.key) < module.TOPIC.partitions

    comes_back()


def test_the_example_of_uses_is_read_and_written_again() -> None:
    message = uses.CODEC.decode(uses.EXAMPLE.value)
    assert uses.CODEC.encode(message) == uses.EXAMPLE.value
    assert message.batch is not None
    assert message.mark is not None
    (principal,) = message.batch.principals
    event = int.from_bytes(message.batch.event, "little")
    shards = {shard_of(principal_key(principal.arn, principal.unique_id)), event >> 58, uses.EXAMPLE.partition}
    assert shards == {2}, "the example lies where its principal and its event's hash say"
    with pytest.raises(contract.VersionError):
        uses.CODEC.decode(msgspec.msgpack.encode(msgspec.msgpack.decode(uses.EXAMPLE.value) | {"schema": 2}))


def test_every_topic_has_an_example() -> None:
    assert all(topic.example is not None for topic in TOPICS)


# --- refusals ---------------------------------------------------------------------------------------------------------


def other_version(module: Any, version: Any) -> bytes:
    """The example as another version would write it, with a field that is not yet known and one that is gone."""
    wire: Any = msgspec.json if module.TOPIC.example.value.startswith(b"{") else msgspec.msgpack
    fields = wire.decode(module.TOPIC.example.value) | {"schema": version, "later": [1]}
    del fields[list(fields)[-2]]
    return bytes(wire.encode(fields))


@pytest.mark.parametrize("module", CODED, ids=name_of)
def test_a_newer_version_is_refused_by_its_number(module: Any) -> None:
    with pytest.raises(
        ContractError, match=rf"topic {module.TOPIC.name} has schema 2, this gapwatch reads 1: use a newer"
    ):
        module.CODEC.decode(other_version(module, 2))


@pytest.mark.parametrize("module", CODED, ids=name_of)
def test_a_version_that_never_was_is_refused(module: Any) -> None:
    with pytest.raises(ContractError, match="never was"):
        module.CODEC.decode(other_version(module, 0))


@pytest.mark.parametrize("module", CODED, ids=name_of)
def test_a_field_of_the_same_version_that_is_not_known_is_left_out(module: Any) -> None:
    wire: Any = msgspec.json if module.TOPIC.example.value.startswith(b"{") else msgspec.msgpack
    more = wire.encode(wire.decode(module.TOPIC.example.value) | {"later": {"deep": [1]}})
    assert module.CODEC.decode(more) == module.CODEC.decode(module.TOPIC.example.value)


@pytest.mark.parametrize("module", CODED, ids=name_of)
def test_broken_bytes_raise_one_error(module: Any) -> None:
    whole = module.TOPIC.example.value

    @given(st.binary(max_size=60) | st.integers(0, len(whole) - 1).map(lambda at: whole[:at]))
    def is_refused(raw: bytes) -> None:
        with pytest.raises(ContractError, match=f"topic {module.TOPIC.name}"):
            module.CODEC.decode(raw)

    is_refused()
    for odd in (
        b"[" * 100_000,
        b'{"schema":1,"x":' + b"[" * 100_000,
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b'"\xff"',
    ):
        with pytest.raises(ContractError):
            module.CODEC.decode(odd)


def test_a_message_larger_than_a_broker_takes_is_not_made() -> None:
    large = msgspec.structs.replace(grants.CODEC.decode(grants.EXAMPLE.value), packed=bytes(contract.VALUE_BYTES_MAX))
    with pytest.raises(ContractError, match="at most 1000000 are sent"):
        grants.CODEC.encode(large)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spans": ((5, 5),)},
        {"spans": ((5, 9), (9, 12))},
        {"spans": ((5, 9), (1, 3))},
        {"spans": ((5, 9),), "watermark": 8},
    ],
)
def test_spans_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    sound = coverage.CODEC.decode(coverage.EXAMPLE.value)
    with pytest.raises(ValueError, match="span"):
        msgspec.structs.replace(sound, **wrong)
    broken = msgspec.json.encode(msgspec.json.decode(coverage.EXAMPLE.value) | wrong)
    with pytest.raises(ContractError, match="span"):
        coverage.CODEC.decode(broken)


@pytest.mark.parametrize(
    "wrong", [{"unused": b"12345"}, {"gap_index": 0.0}, {"moved_count": 0}, {"counts": gap_changes.VerdictCounts()}]
)
def test_a_gap_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"counted|gap index"):
        msgspec.structs.replace(gap_changes.CODEC.decode(gap_changes.EXAMPLE.value), **wrong)


def test_hashes_are_unpacked_and_none_may_stand_twice() -> None:
    pair = [stable_hash("s3:GetObject"), stable_hash("ec2:RunInstances")]
    assert gap_changes.unpack_hashes(b"".join(pair)) == frozenset(pair)
    for packed in (pair[0] * 2, pair[0] + b"1"):
        with pytest.raises(ContractError):
            gap_changes.unpack_hashes(packed)


def test_a_reject_holds_one_form_of_the_record() -> None:
    sound = rejected.CODEC.decode(rejected.EXAMPLE.value)
    with pytest.raises(ValueError, match="either"):
        msgspec.structs.replace(sound, redacted=None)


# --- the contract and the program -------------------------------------------------------------------------------------


def test_keys_shards_hashes_and_verdicts_are_the_programs() -> None:
    assert contract.SHARDS == SHARDS
    assert gap_changes.HASH_BYTES == STABLE_HASH_BYTES
    assert set(gap_changes.VerdictCounts.__struct_fields__) == set(VERDICTS)
    for principal in (
        build_principal("one"),
        build_principal("two", unique_id=None),
        Principal(ROLE, ROLE_ID, ACCOUNT, "role"),
    ):
        key = key_of(principal)
        assert principal_key(principal.arn, principal.unique_id) == key.to_bytes(8, "big")
        assert shard_of(key.to_bytes(8, "big")) == core_shard_of(key)


def test_grants_carry_what_the_store_keeps() -> None:
    catalogue = build_small_catalogue()
    principal = Principal(ROLE, ROLE_ID, ACCOUNT, "role")
    holding = build_holding(principal, catalogue.mask_of(["iam:CreateAccessKey", "s3:GetObject", "ec2:RunInstances"]))
    example = grants.CODEC.decode(grants.EXAMPLE.value)
    assert unpack_grants(example.packed, {}) == holding
    sent = msgspec.structs.replace(example, packed=pack_grants(holding, catalogue.version))
    assert unpack_grants(grants.CODEC.decode(grants.CODEC.encode(sent)).packed, {}) == holding


def test_a_catalogue_comes_back_and_its_key_is_no_principals() -> None:
    names = list(build_small_catalogue().names)
    raw = grants.encode_catalogue(names)
    assert grants.decode_catalogue(raw) == names
    assert grants.catalogue_of(grants.catalogue_key("small-1")) == "small-1"
    assert grants.catalogue_of(grants.EXAMPLE.key) is None
    for broken in (b"", b"x", raw[:-5], grants.encode_catalogue(["x" * (grants.CATALOGUE_BYTES_MAX + 1)])):
        with pytest.raises(ContractError):
            grants.decode_catalogue(broken)


def test_the_largest_gap_of_today_fits_many_times() -> None:
    hashes = b"".join(number.to_bytes(5, "big") for number in range(gap_changes.UNUSED_MAX))
    moved = tuple(gap_changes.Moved("x" * 256, None, "unobservable") for _ in range(gap_changes.MOVED_MAX))
    whole = msgspec.structs.replace(
        gap_changes.CODEC.decode(gap_changes.EXAMPLE.value),
        counts=gap_changes.VerdictCounts(unused=gap_changes.UNUSED_MAX),
        unused=hashes,
        moved=moved,
        moved_count=gap_changes.UNUSED_MAX,
    )
    assert gap_changes.CODEC.decode(gap_changes.CODEC.encode(whole)) == whole


@dataclass(frozen=True)
class Wanted:
    """What the design says of a topic."""

    partitions: int
    policy: str


@pytest.mark.parametrize(
    ("topic", "wanted"),
    list(
        zip(
            TOPICS,
            (Wanted(64, "delete"), Wanted(64, "compact"), Wanted(1, "compact"), Wanted(64, "compact"), Wanted(1, "delete"),
             Wanted(1, "delete")),
            strict=True,
        )
    ),
    ids=[topic.name for topic in TOPICS],
)  # fmt: skip
def test_settings_are_the_brokers(topic: Topic, wanted: Wanted) -> None:
    assert topic.partitions == wanted.partitions
    for replication, in_sync in ((1, "1"), (2, "1"), (3, "2"), (5, "2")):
        settings = topic.settings(replication)
        assert settings["cleanup.policy"] == wanted.policy
        assert settings["min.insync.replicas"] == in_sync
        assert ("retention.ms" in settings) == (wanted.policy == "delete")
    assert topic.doc
    assert topic.key
    assert topic.full_name("mine.") == f"mine.{topic.name}"


def test_a_codec_names_its_form() -> None:
    codec = Codec(coverage.TOPIC, coverage.Coverage, "msgpack")
    with pytest.raises(ContractError, match="msgpack"):
        codec.decode(b"")
