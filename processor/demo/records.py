"""CloudTrail records of the made-up company, whole: every key that CloudTrail writes, in its order.

The order and the forms are those of records as delivered (event versions 1.08 to 1.11). Objects inside a record may be
shared with other records of its session: encode it or copy it, do not change it.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from processor.demo.accounts import HOME_REGION, MANAGEMENT, Account, Json
from processor.demo.calls import Call
from processor.demo.ids import format_uuid, make_hex, make_token
from processor.demo.principals import DemoPrincipal
from processor.demo.scenes import Scene, fill
from processor.demo.sessions import SESSION_SECONDS, Session, write_party
from processor.demo.staff import TRUSTS, RolePlan
from processor.demo.times import format_time

GLOBAL_SOURCES = frozenset(("iam", "organizations", "cloudfront", "route53", "ce"))
"""These log to us-east-1, wherever the caller is."""

IAM_PREFIXES: Mapping[str, str] = {"monitoring": "cloudwatch", "tagging": "tag"}
"""Sources whose actions bear another prefix, as a refusal's message names them."""

_PLAIN_DENIED = frozenset(
    ("iam", "sts", "s3", "sns", "sqs", "rds", "kms", "monitoring", "cloudformation", "organizations")
)
_TLS = ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
_VERSIONS = {True: "1.11", False: "1.10"}


def write_call(
    call: Call, session: Session, at: int, scene: Scene, *, denied: bool = False, failed: bool = False, via: str = ""
) -> Json:
    """One API call. `via` is a service (`secretsmanager`) that makes it on the session's behalf."""
    prefix = call.prefix
    region = "us-east-1" if prefix in GLOBAL_SOURCES else scene["region"]
    by_service = f"{via}.amazonaws.com" if via else session.user_identity.get("invokedBy", "")
    record: Json = {
        "eventVersion": _VERSIONS[call.data_event],
        "userIdentity": {**session.user_identity, "invokedBy": by_service} if via else session.user_identity,
        "eventTime": format_time(at),
        "eventSource": call.event_source,
        "eventName": call.event_name,
        "awsRegion": region,
        "sourceIPAddress": by_service or session.address,
        "userAgent": by_service or session.agent,
    }
    if denied:
        record["errorCode"], record["errorMessage"] = explain_refusal(call, session)
    elif failed:
        record["errorCode"], record["errorMessage"] = call.failure
    record["requestParameters"] = fill(call.parameters, scene)
    record["responseElements"] = None if denied or failed else fill(call.response, scene)
    rng = scene.rng
    if prefix == "s3":
        record["additionalEventData"] = _describe_transfer(rng, call, call.data_event and not denied)
        record["requestID"] = f"{rng.getrandbits(64):016X}"
    else:
        record["requestID"] = format_uuid(rng.getrandbits(128))
    record["eventID"] = format_uuid(rng.getrandbits(128))
    record["readOnly"] = call.read_only
    if call.resources:
        record["resources"] = [_name_resource(kind, arn.format_map(scene), scene) for kind, arn in call.resources]
    record["eventType"] = "AwsApiCall"
    if call.api_version:
        record["apiVersion"] = call.api_version
    record["managementEvent"] = not call.data_event
    record["recipientAccountId"] = scene["account"]
    _close(
        record,
        session,
        by_service,
        "Data" if call.data_event else "Management",
        host=f"{prefix}.{region}.amazonaws.com",
    )
    return record


def explain_refusal(call: Call, session: Session) -> tuple[str, str]:
    """The errorCode and errorMessage of a call that no policy allows."""
    action = f"{IAM_PREFIXES.get(call.prefix, call.prefix)}:{call.event_name}"
    caller = session.user_identity["arn"]
    reason = f"because no identity-based policy allows the {action} action"
    if call.prefix == "ec2":
        return (
            "Client.UnauthorizedOperation",
            f"You are not authorized to perform this operation. User: {caller} {reason}",
        )
    code = "AccessDenied" if call.prefix in _PLAIN_DENIED else "AccessDeniedException"
    return code, f"User: {caller} is not authorized to perform: {action} on resource: * {reason}"


def _close(record: Json, session: Session, by_service: str, category: str, host: str) -> None:
    """What stands at a record's end: how the call came in."""
    if session.client.endpoint and not by_service:
        account = session.principal.account.id
        record["vpcEndpointId"] = f"vpce-0{make_hex(16, 'vpce', account)}"
        record["vpcEndpointAccountId"] = account
    record["eventCategory"] = category
    if by_service:
        return
    record["tlsDetails"] = {"tlsVersion": _TLS[0], "cipherSuite": _TLS[1], "clientProvidedHostHeader": host}
    if session.client.console:
        record["sessionCredentialFromConsole"] = "true"


def _name_resource(kind: str, arn: str, scene: Scene) -> Json:
    if kind == "AWS::S3::Object":
        return {"type": kind, "ARN": arn}
    return {"accountId": scene["account"], "type": kind, "ARN": arn}


def _describe_transfer(rng: Random, call: Call, moved: bool) -> Json:
    size = rng.randrange(1 << 20) if moved else 0
    return {
        "SignatureVersion": "SigV4",
        "CipherSuite": _TLS[1],
        "bytesTransferredIn": 0 if call.read_only else size,
        "AuthenticationMethod": "AuthHeader",
        "x-amz-id-2": f"{rng.getrandbits(192):048x}",
        "bytesTransferredOut": size if call.read_only else 0,
    }


def write_assume(session: Session, at: int, rng: Random, caller: Session | None = None) -> list[Json]:
    """The call that opened a role's session, with the credentials that it answered (which open nothing).

    One record, in the role's account. Where another principal of the company asked (`caller`), two, one in each account,
    with one sharedEventID; the owner's copy names the caller by account only.
    """
    role = session.principal
    plan = role.plan
    assert isinstance(plan, RolePlan)  # noqa: S101 - only roles are assumed
    event_name = "AssumeRole" if caller else TRUSTS[plan.trust][0].partition(":")[2]
    party = write_party(role, session.operator) if caller is None else _name_account(caller)
    record: Json = {
        "eventVersion": "1.08",
        "userIdentity": party,
        "eventTime": format_time(at),
        "eventSource": "sts.amazonaws.com",
        "eventName": event_name,
        "awsRegion": HOME_REGION,
        "sourceIPAddress": party.get("invokedBy") or (caller or session).address,
        "userAgent": party.get("invokedBy") or (caller or session).agent,
        "requestParameters": _ask_session(event_name, role, session.operator, party),
        "responseElements": _answer_session(session, at),
        "requestID": format_uuid(rng.getrandbits(128)),
        "eventID": format_uuid(rng.getrandbits(128)),
        "readOnly": True,
        "resources": [{"accountId": role.account.id, "type": "AWS::IAM::Role", "ARN": role.arn}],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": role.account.id,
    }
    if event_name == "AssumeRole":
        record["sharedEventID"] = format_uuid(rng.getrandbits(128))
    record["eventCategory"] = "Management"
    if "invokedBy" in party:
        return [record]
    host = f"sts.{HOME_REGION}.amazonaws.com"
    record["tlsDetails"] = {"tlsVersion": _TLS[0], "cipherSuite": _TLS[1], "clientProvidedHostHeader": host}
    if caller is None:
        return [record]
    own = {
        "userIdentity": caller.user_identity,
        "eventID": format_uuid(rng.getrandbits(128)),
        "recipientAccountId": caller.principal.account.id,
    }
    return [{**record, **own}, record]


def _name_account(caller: Session) -> Json:
    """A caller as another account's copy of the record names it."""
    account = caller.principal.account.id
    return {"type": "AWSAccount", "principalId": caller.user_identity["principalId"], "accountId": account}


def _ask_session(event_name: str, role: DemoPrincipal, operator: str, party: Mapping[str, Any]) -> Json:
    asked: Json = {"roleArn": role.arn, "roleSessionName": operator, "durationSeconds": SESSION_SECONDS}
    if event_name == "AssumeRoleWithSAML":
        return {
            "sAMLAssertionID": f"_{make_hex(32, role.arn, operator)}",
            **asked,
            "principalArn": _find_provider(role),
        }
    if party["type"] == "AWSAccount" and role.name == "skylark-monitoring":
        asked["externalId"] = f"skylark-{make_hex(12, role.account.id)}"
    return asked


def _find_provider(role: DemoPrincipal) -> str:
    plan = role.plan
    return TRUSTS[plan.trust][2].format(account=role.account.id) if isinstance(plan, RolePlan) else ""


def _answer_session(session: Session, at: int) -> Json:
    role = session.principal
    return {
        "credentials": {
            "accessKeyId": session.access_key,
            "sessionToken": make_token(role.arn, session.operator, at // SESSION_SECONDS),
            "expiration": format_time(at + SESSION_SECONDS),
        },
        "assumedRoleUser": {
            "assumedRoleId": f"{role.unique_id_at(at)}:{session.operator}",
            "arn": f"arn:aws:sts::{role.account.id}:assumed-role/{role.name}/{session.operator}",
        },
    }


def write_sign_in(session: Session, at: int, rng: Random) -> Json:
    """A sign-in to the console: an event, but no call that IAM authorises."""
    account = session.principal.account
    host = "signin.aws.amazon.com"
    return {
        "eventVersion": "1.08",
        "userIdentity": session.user_identity,
        "eventTime": format_time(at),
        "eventSource": "signin.amazonaws.com",
        "eventName": "ConsoleLogin",
        "awsRegion": "us-east-1" if account is MANAGEMENT else HOME_REGION,
        "sourceIPAddress": session.address,
        "userAgent": session.agent,
        "requestParameters": None,
        "responseElements": {"ConsoleLogin": "Success"},
        "additionalEventData": {
            "LoginTo": "https://console.aws.amazon.com/console/home",
            "MobileVersion": "No",
            "MFAUsed": "Yes",
        },
        "eventID": format_uuid(rng.getrandbits(128)),
        "readOnly": False,
        "eventType": "AwsConsoleSignIn",
        "managementEvent": True,
        "recipientAccountId": account.id,
        "eventCategory": "Management",
        "tlsDetails": {"tlsVersion": _TLS[0], "cipherSuite": _TLS[1], "clientProvidedHostHeader": host},
    }


SERVICE_EVENTS = (
    ("kms", "RotateKey", {"keyId": "{key}"}),
    ("secretsmanager", "RotationSucceeded", {"SecretId": "{env}/{service}"}),
    ("ec2", "SharedSnapshotVolumeCreated", {"snapshotId": "{snapshot}"}),
    ("sso", "Federate", {"role_name": "ReadOnlyAccess"}),
)


def write_service_event(account: Account, at: int, scene: Scene) -> Json:
    """What a service did of itself: eventType AwsServiceEvent, with a userIdentity that has no type."""
    prefix, name, details = scene.rng.choice(SERVICE_EVENTS)
    source = f"{prefix}.amazonaws.com"
    return {
        "eventVersion": "1.08",
        "userIdentity": {"accountId": account.id, "invokedBy": source},
        "eventTime": format_time(at),
        "eventSource": source,
        "eventName": name,
        "awsRegion": HOME_REGION,
        "sourceIPAddress": source,
        "userAgent": source,
        "requestParameters": None,
        "responseElements": None,
        "eventID": format_uuid(scene.rng.getrandbits(128)),
        "readOnly": False,
        "eventType": "AwsServiceEvent",
        "managementEvent": True,
        "recipientAccountId": account.id,
        "serviceEventDetails": fill(details, scene),
        "eventCategory": "Management",
    }


def write_network_copy(record: Json, rng: Random) -> Json:
    """A VPC endpoint's own record of a call that came through it: another eventID, category NetworkActivity."""
    left_out = ("responseElements", "additionalEventData", "resources", "tlsDetails", "requestParameters", "apiVersion")
    copied = {key: value for key, value in record.items() if key not in left_out}
    return {
        **copied,
        "eventID": format_uuid(rng.getrandbits(128)),
        "eventType": "AwsVpceEvent",
        "managementEvent": False,
        "eventCategory": "NetworkActivity",
    }
