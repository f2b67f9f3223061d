"""Sessions of the made-up company's principals, and the userIdentity that CloudTrail writes of each.

A session is a pure function of principal, operator, client and period, so that any hour can be made by itself and
still shows the keys of the hour before. For the same reason its creationDate is the beginning of its period, even where
the call that opened it is logged later.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from processor.demo.accounts import COMPANY, VENDOR_ACCOUNT, Json
from processor.demo.ids import make_access_key, make_hex, make_unique_id
from processor.demo.principals import DemoPrincipal
from processor.demo.staff import TRUSTS, RolePlan
from processor.demo.times import format_time

SESSION_SECONDS = 6 * 3600
_FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
_BOTO = "Boto3/1.40.61 md/Botocore#1.40.61 ua/2.1 os/linux#6.8.0 md/arch#x86_64 lang/python#3.13.7"


@dataclass(frozen=True, slots=True)
class Client:
    """What a call comes from: its userAgent, and the net of its sourceIPAddress (of those kept for documentation, RFC
    5737, or a VPC's own). `endpoint`: through a VPC endpoint."""

    agent: str
    net: str
    console: bool = False
    endpoint: bool = False


CLIENTS: Mapping[str, Client] = {
    "console": Client(_FIREFOX, "203.0.113.", console=True),
    "cli": Client(
        "aws-cli/2.31.20 md/awscrt#0.27.6 ua/2.1 os/macos#25.0.0 md/arch#arm64 lang/python#3.13.7", "203.0.113."
    ),
    "sdk": Client(_BOTO, "203.0.113."),
    "github": Client(
        "aws-sdk-js/3.914.0 ua/2.1 os/linux lang/js md/nodejs#22.20.0 exec-env/GitHubActions", "198.51.100."
    ),
    "terraform": Client("APN/1.0 HashiCorp/1.0 Terraform/1.13.4 terraform-provider-aws/6.18.0", "198.51.100."),
    "lambda": Client(f"{_BOTO} exec-env/AWS_Lambda_python3.13", "10.20.7.", endpoint=True),
    "task": Client("aws-sdk-java/2.35.10 md/io#async exec-env/AWS_ECS_FARGATE", "10.20.9.", endpoint=True),
    "node": Client(
        "aws-sdk-go/1.55.5 (go1.25.1; linux; arm64) amazon-ssm-agent/3.3.3050.0", "10.20.11.", endpoint=True
    ),
    "vendor": Client("Skylark/4.2", "192.0.2."),
    "service": Client("", ""),
}

SESSION_NAMES: Mapping[str, str] = {
    "vendor": "SkylarkIntegration",
    "backup": "AWSBackup-AWSBackupDefaultServiceRole",
    "glue": "GlueJobRunnerSession",
    "firehose": "FirehoseDeliveryStreamSession",
    "sagemaker": "SageMaker",
    "imagebuilder": "Ec2ImageBuilderIntegrationService",
    "config.amazonaws.com": "AWSConfig-Describe",
    "ecs.amazonaws.com": "ecs-service-scheduler",
    "autoscaling.amazonaws.com": "AutoScaling",
}
"""Session names that a service chooses, by how the role is assumed or by the service that it is linked to."""


@dataclass(frozen=True, slots=True)
class Session:
    """`user_identity` is shared by all records of the session: nobody changes it."""

    principal: DemoPrincipal
    operator: str
    access_key: str
    client: Client
    address: str
    agent: str
    user_identity: Json


def name_operator(principal: DemoPrincipal, at: int, draw: int) -> str:
    """Who is behind a role's session: one of its people, or the name that the workload or its service gives.
    `draw` is any number that chooses among several."""
    plan = principal.plan
    if not isinstance(plan, RolePlan):
        return ""
    if plan.operators:
        return plan.operators[draw % len(plan.operators)]
    if plan.trust == "lambda":
        return f"{name_service(principal)}-{principal.account.env.lower()}"
    if plan.trust == "task":
        return make_hex(32, principal.arn, at // 86_400, draw % 2)
    if plan.trust == "node":
        return "i-0" + make_hex(16, "i-0", principal.account.id, name_service(principal), draw % 3)
    if plan.trust == "github":
        return f"gha-{make_hex(8, principal.arn, at // SESSION_SECONDS)}"
    return SESSION_NAMES.get(plan.linked or plan.trust, principal.name)


def name_service(principal: DemoPrincipal) -> str:
    """The service that a workload's role is for: its name without what kind of role it is; "" where it serves many."""
    trust = principal.plan.trust if isinstance(principal.plan, RolePlan) else ""
    ending = f"-{trust}"
    if trust == "lambda" or (trust in ("task", "node") and principal.name.endswith(ending)):
        return principal.name.removesuffix(ending)
    return ""


def open_session(principal: DemoPrincipal, operator: str, client_name: str, at: int) -> Session:
    """The session in which `operator` works at a time. Sessions change every six hours."""
    client = CLIENTS[client_name]
    started = at - at % SESSION_SECONDS
    key_prefix = "AKIA" if principal.kind == "user" else "ASIA"
    started_of_key = "" if principal.kind == "user" else started
    access_key = make_access_key(key_prefix, principal.arn, operator, started_of_key)
    trusted = TRUSTS[principal.plan.trust][2] if isinstance(principal.plan, RolePlan) else ""
    by_service = trusted if client_name == "service" else ""
    if isinstance(principal.plan, RolePlan) and principal.plan.linked:
        by_service = principal.plan.linked
    return Session(
        principal=principal,
        operator=operator,
        access_key=access_key,
        client=client,
        address=by_service or f"{client.net}{int(make_hex(2, operator or principal.arn), 16)}",
        agent=by_service or client.agent,
        user_identity=_write_user_identity(principal, operator, access_key, started, client, by_service, at),
    )


def _write_user_identity(
    principal: DemoPrincipal, operator: str, access_key: str, started: int, client: Client, by_service: str, at: int
) -> Json:
    account = principal.account.id
    attributes = {"creationDate": format_time(started), "mfaAuthenticated": "true" if client.console else "false"}
    if principal.kind == "root":
        return {
            "type": "Root",
            "principalId": account,
            "arn": principal.arn,
            "accountId": account,
            "accessKeyId": access_key,
            "sessionContext": {"attributes": attributes},
        }
    unique_id = principal.unique_id_at(at)
    if principal.kind == "user":
        found: Json = {
            "type": "IAMUser",
            "principalId": unique_id,
            "arn": principal.arn,
            "accountId": account,
            "accessKeyId": access_key,
            "userName": principal.name,
        }
        return {**found, "sessionContext": {"attributes": attributes}} if client.console else found
    return _write_role_session(principal, operator, access_key, attributes, by_service, unique_id)


def _write_role_session(
    role: DemoPrincipal, operator: str, access_key: str, attributes: Json, by_service: str, unique_id: str
) -> Json:
    account = role.account.id
    context: Json = {
        "sessionIssuer": {
            "type": "Role",
            "principalId": unique_id,
            "arn": role.arn,
            "accountId": account,
            "userName": role.name,
        },
        "attributes": attributes,
    }
    trust = role.plan.trust if isinstance(role.plan, RolePlan) else ""
    if trust == "github":
        context["webIdFederationData"] = {
            "federatedProvider": TRUSTS["github"][2].format(account=account),
            "attributes": {},
        }
    elif trust == "node":
        context["ec2RoleDelivery"] = "2.0"
    found: Json = {
        "type": "AssumedRole",
        "principalId": f"{unique_id}:{operator}",
        "arn": f"arn:aws:sts::{account}:assumed-role/{role.name}/{operator}",
        "accountId": account,
        # A service that works with its own credentials shows no key of the role.
        **({} if by_service else {"accessKeyId": access_key}),
        "sessionContext": context,
    }
    if by_service:
        found["invokedBy"] = by_service
    elif trust == "lambda":
        function = f"arn:aws:lambda:eu-west-1:{account}:function:{operator}"
        found["inScopeOf"] = {"issuerType": "AWS::Lambda::Function", "credentialsIssuedTo": function}
    return found


def write_party(principal: DemoPrincipal, operator: str) -> Json:
    """userIdentity of the party that asks for a role's session, by how the role is assumed."""
    plan = principal.plan
    assert isinstance(plan, RolePlan)  # noqa: S101 - only roles are assumed
    account = principal.account.id
    party = TRUSTS[plan.trust][2].format(account=account, linked=plan.linked)
    if plan.trust in ("sso", "people"):
        provider = make_hex(20, party) + "="
        return {
            "type": "SAMLUser",
            "principalId": f"{provider}:{operator}",
            "userName": operator,
            "identityProvider": provider,
        }
    if plan.trust == "github":
        subject = f"repo:{COMPANY}/product:ref:refs/heads/main"
        return {
            "type": "WebIdentityUser",
            "principalId": f"{party}:sts.amazonaws.com:{subject}",
            "userName": subject,
            "identityProvider": party,
        }
    if plan.trust == "vendor":
        caller = make_unique_id("AROA", VENDOR_ACCOUNT)
        return {"type": "AWSAccount", "principalId": f"{caller}:skylark-collector", "accountId": VENDOR_ACCOUNT}
    return {"type": "AWSService", "invokedBy": party}
