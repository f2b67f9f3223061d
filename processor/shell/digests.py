"""CloudTrail's digest files: what they vouch for, and whether they are CloudTrail's own.

    [PREFIX/]AWSLogs/[O-ID/]ACCOUNT/CloudTrail-Digest/REGION/YYYY/MM/DD/ACCOUNT_CloudTrail-Digest_REGION_TRAIL_HOME_TIME.json.gz

Each hour's digest names the log files of that hour with the SHA-256 of their unzipped bytes, and the signature of the digest before
it. The object's metadata hold its own: RSA over end time, place, SHA-256 of the digest and that signature, one a line (CloudTrail
User Guide, custom implementations of log file integrity validation).
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, BinaryIO, cast

import msgspec
from msgspec import Struct

from processor.core.notifications import LogObject
from processor.shell.files import Source, SourceError, SourceReader
from processor.shell.log_bucket import LogBucket
from processor.shell.payloads import unzip_payload

FETCHES_MAX = 8
FINDINGS_SAID_MAX = 20

_HOME = re.compile(r"_CloudTrail-Digest_.+_([a-z]{2}(?:-[a-z]+)+-\d)_\d{8}T\d{6}Z\.json\.gz$")


class DigestedFile(Struct, rename="camel"):
    """A log file that a digest names."""

    s3_object: str = msgspec.field(name="s3Object")
    hash_value: str


class Digest(Struct, rename="camel"):
    """A digest file, as far as it is read."""

    digest_end_time: str
    digest_bucket: str = msgspec.field(name="digestS3Bucket")
    digest_object: str = msgspec.field(name="digestS3Object")
    public_key: str = msgspec.field(name="digestPublicKeyFingerprint")
    log_files: list[DigestedFile] = []
    previous_object: str | None = msgspec.field(name="previousDigestS3Object", default=None)
    previous_signature: str | None = msgspec.field(name="previousDigestSignature", default=None)


FindKeys = Callable[[str, datetime, datetime], Awaitable[Mapping[str, bytes]]]
"""The public keys of a region (fingerprint to PKCS #1 DER) in a span of time."""


@dataclass(slots=True)
class Verifier:
    """What is known of some days' files. `findings` are lines on what is not as CloudTrail wrote it."""

    hashes: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    digests: int = 0
    verified: int = 0
    unsigned: int = 0

    async def load(
        self, client: Any, bucket: LogBucket, regions: Iterable[str], days: tuple[date, date], find_keys: FindKeys
    ) -> None:
        """Read and check the digests of some days, and of the hour behind them. Raises what the calls raise."""
        folders = [re.sub(r"/?CloudTrail/(?=[^/]+/$)", _to_digests, region) for region in regions]
        first, last = days
        wanted = [first + timedelta(at) for at in range((last - first).days + 2)]
        keys = [key for day in wanted for key in await bucket.list_digests(folders, day)]
        homes = {named[1] for key in keys if (named := _HOME.search(key))}
        span = (
            datetime.combine(first, time(), UTC) - timedelta(days=1),
            datetime.combine(last, time(), UTC) + timedelta(days=2),
        )
        public: dict[str, bytes] = {}
        for home in sorted(homes):
            public |= await find_keys(home, *span)
        room = asyncio.Semaphore(FETCHES_MAX)
        signatures: dict[str, str] = {}
        read = await asyncio.gather(*(self._read(client, bucket.bucket, key, room) for key in keys))
        for key, found in zip(keys, read, strict=True):
            if found is not None:
                signatures[key] = found[2]
        for key, found in zip(keys, read, strict=True):
            if found is not None and self._check(bucket.bucket, key, *found, public):
                self._chain(key, found[0], signatures, set(keys))

    async def _read(
        self, client: Any, bucket: str, key: str, room: asyncio.Semaphore
    ) -> tuple[Digest, bytes, str] | None:
        async with room:
            answer = await client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                zipped = await body.read()
        unzipped = unzip_payload(zipped)
        try:
            digest = msgspec.json.decode(unzipped or b"", type=Digest)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.findings.append(f"s3://{bucket}/{key} is no digest that CloudTrail wrote")
            return None
        return digest, unzipped or b"", str(answer.get("Metadata", {}).get("signature", ""))

    def _check(
        self, bucket: str, key: str, digest: Digest, text: bytes, signature: str, public: Mapping[str, bytes]
    ) -> bool:
        """Whether a digest is where it was written, and signed; what it vouches for counts only then."""
        place = f"s3://{bucket}/{key}"
        self.digests += 1
        if (digest.digest_bucket, digest.digest_object) != (bucket, key):
            self.findings.append(f"{place} was written as s3://{digest.digest_bucket}/{digest.digest_object}")
            return False
        if digest.public_key not in public:
            self.findings.append(f"{place} is signed with a key that CloudTrail does not have ({digest.public_key})")
            return False
        hashed = hashlib.sha256(text).hexdigest()
        signed = f"{digest.digest_end_time}\n{bucket}/{key}\n{hashed}\n{digest.previous_signature or 'null'}"
        if not is_signed(public[digest.public_key], signature, signed.encode()):
            self.findings.append(f"{place} was changed: its signature does not fit")
            return False
        self.hashes |= {log.s3_object: log.hash_value for log in digest.log_files}
        return True

    def _chain(self, key: str, digest: Digest, signatures: Mapping[str, str], listed: set[str]) -> None:
        """The digest before this one, where it lies in the same days, must be there, and be the one that was meant."""
        before = digest.previous_object
        if before is None or _time_of(before) < min(map(_time_of, listed)):
            return
        if before not in listed:
            self.findings.append(f"{before}: this digest is missing, which {key} follows")
        elif signatures.get(before) != digest.previous_signature:
            self.findings.append(f"{before}: this digest is not the one that {key} follows")

    def check_file(self, log: LogObject, file: BinaryIO) -> bool:
        """Whether a log file may be read: False for one that was changed. The file is at its beginning again afterwards."""
        expected = self.hashes.get(log.key)
        if expected is None:
            self.unsigned += 1
            return True
        hashed = hashlib.sha256()
        for chunk in SourceReader(Source(log.key, 0), cast("BinaryIO", _KeptOpen(file))):
            hashed.update(chunk)
        file.seek(0)
        if hashed.hexdigest() != expected:
            self.findings.append(f"s3://{log.bucket}/{log.key} was changed: its hash does not fit; it is left out")
            return False
        self.verified += 1
        return True

    def finish(self, listed: Iterable[str], days: tuple[date, date]) -> None:
        """Look for log files of the days that a digest names and the bucket no longer has."""
        first, last = (f"{day:%Y/%m/%d}" for day in days)
        present = set(listed)
        for key in sorted(self.hashes.keys() - present):
            if first <= "/".join(key.split("/")[-4:-1]) <= last:
                self.findings.append(f"{key} was deleted: a digest names it")

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"{self.digests:,} digests read; {self.verified:,} log files are as CloudTrail wrote them, {self.unsigned:,} are named "
            f"by no digest, {len(self.findings):,} findings"
        )


class _KeptOpen:
    """A file that a reader does not close."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read

    def close(self) -> None:
        """Not yet."""


def _time_of(key: str) -> str:
    """The time in a digest's name."""
    return key.rpartition("_")[2]


def _to_digests(found: re.Match[str]) -> str:
    return found[0].replace("CloudTrail/", "CloudTrail-Digest/")


def is_signed(public_key: bytes, signature: str, signed: bytes) -> bool:
    """Whether a signature (hex) is of a key (PKCS #1, DER), by RSA PKCS #1 v1.5 with SHA-256. Raises SourceError without the
    library for it."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_der_public_key
    except ImportError as error:
        raise SourceError("--verify needs cryptography: pip install 'gapwatch[verify]'") from error
    try:
        key = load_der_public_key(public_key)
        if isinstance(key, RSAPublicKey):
            key.verify(bytes.fromhex(signature), signed, PKCS1v15(), SHA256())
            return True
    except (InvalidSignature, ValueError):
        pass
    return False
