"""`gapwatch backfill --verify`: log files against CloudTrail's signed digests. No emulator signs digests or answers ListPublicKeys,
so the tests sign with a key of their own, and a small server answers that one call."""

import base64
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aws_servers import Roto, aws_environment, zip_log
from conftest import Gapwatch, Ran
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from test_kinesis import make_calls

BUCKET = "signed-logs"
ACCOUNT_FOLDER = "AWSLogs/111122223333"
DAY = "2026/11/24"
FINGERPRINT = "31e8b5433410dfb61a9dc45cc65b22ff"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def keys_url(key: rsa.RSAPrivateKey) -> Iterator[str]:
    """Answers ListPublicKeys, as CloudTrail does."""
    value = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    answer = json.dumps({"PublicKeyList": [{"Fingerprint": FINGERPRINT, "Value": base64.b64encode(value).decode()}]})

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["X-Amz-Target"].endswith("ListPublicKeys")
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def roto() -> Iterator[Roto]:
    with aws_environment(), Roto() as found:
        found.client("s3").create_bucket(Bucket=BUCKET)
        yield found


def name_log(hour: int) -> str:
    name = f"111122223333_CloudTrail_us-east-1_{DAY.replace('/', '')}T{hour:02}05Z_x.json.gz"
    return f"{ACCOUNT_FOLDER}/CloudTrail/us-east-1/{DAY}/{name}"


def name_digest(hour: int) -> str:
    name = f"111122223333_CloudTrail-Digest_us-east-1_trail_us-east-1_{DAY.replace('/', '')}T{hour:02}0000Z.json.gz"
    return f"{ACCOUNT_FOLDER}/CloudTrail-Digest/us-east-1/{DAY}/{name}"


def put_day(roto: Roto, key: rsa.RSAPrivateKey) -> None:
    """Five hours, a log file and a digest each."""
    client = roto.client("s3")
    signature = None
    for hour in range(5):
        zipped = zip_log(make_calls(10, 10 * hour))
        client.put_object(Bucket=BUCKET, Key=name_log(hour), Body=zipped)
        hashed = hashlib.sha256(gzip.decompress(zipped)).hexdigest()
        digest = {
            "awsAccountId": "111122223333",
            "digestStartTime": f"2026-11-24T{hour:02}:00:00Z",
            "digestEndTime": f"2026-11-24T{hour + 1:02}:00:00Z",
            "digestS3Bucket": BUCKET,
            "digestS3Object": name_digest(hour),
            "digestPublicKeyFingerprint": FINGERPRINT,
            "digestSignatureAlgorithm": "SHA256withRSA",
            "previousDigestS3Bucket": BUCKET if hour else None,
            "previousDigestS3Object": name_digest(hour - 1) if hour else None,
            "previousDigestSignature": signature,
            "logFiles": [
                {
                    "s3Bucket": BUCKET,
                    "s3Object": name_log(hour),
                    "hashValue": hashed,
                    "hashAlgorithm": "SHA-256",
                }
            ],
        }
        text = json.dumps(digest).encode()
        signed = (
            f"{digest['digestEndTime']}\n{BUCKET}/{name_digest(hour)}\n{hashlib.sha256(text).hexdigest()}\n"
            f"{signature or 'null'}"
        )
        signature = key.sign(signed.encode(), PKCS1v15(), SHA256()).hex()
        client.put_object(
            Bucket=BUCKET,
            Key=name_digest(hour),
            Body=gzip.compress(text),
            Metadata={"signature": signature, "signature-algorithm": "SHA256withRSA"},
        )


def verify(roto: Roto, keys_url: str, gapwatch: Gapwatch, monkeypatch: pytest.MonkeyPatch) -> Ran:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", roto.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDTRAIL", keys_url)
    return gapwatch(
        "backfill", f"s3://{BUCKET}", "--from", "2026-11-24", "--to", "2026-11-24", "--verify", "--format", "json"
    )  # fmt: skip


def test_files_that_are_as_they_were_written(
    roto: Roto, key: rsa.RSAPrivateKey, keys_url: str, gapwatch: Gapwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_day(roto, key)
    extra = name_log(9)
    roto.client("s3").put_object(Bucket=BUCKET, Key=extra, Body=zip_log(make_calls(10, 900)))
    ran = verify(roto, keys_url, gapwatch, monkeypatch)
    assert ran.code == 0, ran.stderr
    assert (
        "5 digests read; 5 log files are as CloudTrail wrote them, 1 are named by no digest, 0 findings" in ran.stderr
    )
    assert ran.json["records"]["read"] == 60


def test_what_was_changed_or_deleted_is_found(
    roto: Roto, key: rsa.RSAPrivateKey, keys_url: str, gapwatch: Gapwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    hour      0        1         2               3                4
    file      fine     changed   deleted         fine             fine
    digest    fine     fine      fine            deleted          changed
    """
    put_day(roto, key)
    client = roto.client("s3")
    client.put_object(Bucket=BUCKET, Key=name_log(1), Body=zip_log(make_calls(9, 10)))
    client.delete_object(Bucket=BUCKET, Key=name_log(2))
    client.delete_object(Bucket=BUCKET, Key=name_digest(3))
    before = client.get_object(Bucket=BUCKET, Key=name_digest(4))
    text = gzip.decompress(before["Body"].read()).replace(b'"awsAccountId"', b'"awsAccountid"')
    client.put_object(Bucket=BUCKET, Key=name_digest(4), Body=gzip.compress(text), Metadata=before["Metadata"])
    ran = verify(roto, keys_url, gapwatch, monkeypatch)
    assert ran.code == 1, ran.stderr
    assert f"s3://{BUCKET}/{name_log(1)} was changed: its hash does not fit; it is left out" in ran.stderr
    assert f"{name_log(2)} was deleted: a digest names it" in ran.stderr
    assert f"s3://{BUCKET}/{name_digest(4)} was changed: its signature does not fit" in ran.stderr
    assert (
        "4 digests read; 1 log files are as CloudTrail wrote them, 2 are named by no digest, 3 findings" in ran.stderr
    )
    # What was changed is in no count.
    assert ran.json["records"]["read"] == 30


def test_a_digest_that_is_missing_between_others_is_found(
    roto: Roto, key: rsa.RSAPrivateKey, keys_url: str, gapwatch: Gapwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_day(roto, key)
    roto.client("s3").delete_object(Bucket=BUCKET, Key=name_digest(2))
    ran = verify(roto, keys_url, gapwatch, monkeypatch)
    assert ran.code == 1
    assert f"{name_digest(2)}: this digest is missing, which {name_digest(3)} follows" in ran.stderr
    assert ran.json["records"]["read"] == 50


def test_digests_of_another_key_vouch_for_nothing(
    roto: Roto, keys_url: str, gapwatch: Gapwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_day(roto, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    ran = verify(roto, keys_url, gapwatch, monkeypatch)
    assert ran.code == 1
    assert (
        "5 digests read; 0 log files are as CloudTrail wrote them, 5 are named by no digest, 5 findings" in ran.stderr
    )
