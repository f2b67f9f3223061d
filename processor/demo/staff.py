"""Who works in the made-up company's accounts: the tables of its roles, users and groups.

A row says in which accounts a role stands, who may assume it and what is attached to it. What it does all day is in
jobs.py; a role without a job there is one that nobody uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from processor.demo.accounts import COMPANY, VENDOR_ACCOUNT, list_operators

PATHS: Mapping[str, str] = {
    "sso": "/aws-reserved/sso.amazonaws.com/eu-west-1/",
    "backup": "/service-role/",
    "lambda": "/app/",
    "task": "/app/",
}
"""The path of the roles that are assumed so; all others stand at the top."""

_ASSUME, _WEB, _SAML = "sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"

TRUSTS: Mapping[str, tuple[str, str, str]] = {
    # how a role is assumed: (the call, the kind of trusted party, the party)
    "lambda": (_ASSUME, "Service", "lambda.amazonaws.com"),
    "task": (_ASSUME, "Service", "ecs-tasks.amazonaws.com"),
    "node": (_ASSUME, "Service", "ec2.amazonaws.com"),
    "gateway": (_ASSUME, "Service", "apigateway.amazonaws.com"),
    "backup": (_ASSUME, "Service", "backup.amazonaws.com"),
    "glue": (_ASSUME, "Service", "glue.amazonaws.com"),
    "firehose": (_ASSUME, "Service", "firehose.amazonaws.com"),
    "sagemaker": (_ASSUME, "Service", "sagemaker.amazonaws.com"),
    "imagebuilder": (_ASSUME, "Service", "imagebuilder.amazonaws.com"),
    "linked": (_ASSUME, "Service", "{linked}"),
    "github": (_WEB, "Federated", "arn:aws:iam::{account}:oidc-provider/token.actions.githubusercontent.com"),
    "sso": (_SAML, "Federated", "arn:aws:iam::{account}:saml-provider/AWSSSO_0f1e2d3c4b5a6978_DO_NOT_DELETE"),
    "people": (_SAML, "Federated", f"arn:aws:iam::{{account}}:saml-provider/{COMPANY}-idp"),
    "vendor": (_ASSUME, "AWS", f"arn:aws:iam::{VENDOR_ACCOUNT}:root"),
    "management": (_ASSUME, "AWS", "arn:aws:iam::111122223333:root"),
    "itself": (_ASSUME, "AWS", "arn:aws:iam::{account}:root"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RolePlan:
    """`where` holds an account's purpose, or its ENV-purpose, or "*"; `attached` names of policies.py (those of AWS with
    `aws:` before them), `inline` too. `shared_by` are the teams whose people share the role. `idle_days` is the age of
    its last use as IAM tells it, None: used every day, -1: never. `age_days` is how old it is when the demo begins;
    `remade_days` that long ago it was deleted and made anew in PROD, and has another unique id since. `linked` is the
    service of a service-linked role."""

    name: str
    where: str
    trust: str
    attached: str = ""
    inline: str = ""
    team: str = "platform"
    shared_by: str = ""
    boundary: str = ""
    idle_days: int | None = None
    age_days: int = 700
    remade_days: int = 0
    linked: str = ""

    @property
    def path(self) -> str:
        if self.linked:
            return f"/aws-service-role/{self.linked}/"
        return PATHS.get(self.trust, "/")

    @property
    def operators(self) -> tuple[str, ...]:
        return list_operators(*self.shared_by.split())


def _plan_linked(service: str, name: str, policy: str, where: str = "*") -> RolePlan:
    """A service-linked role."""
    return RolePlan(name, where, "linked", f"aws:aws-service-role/{policy}", linked=f"{service}.amazonaws.com")


_BASIC = "aws:service-role/AWSLambdaBasicExecutionRole"
_QUEUE = "aws:service-role/AWSLambdaSQSQueueExecutionRole"
_EXECUTION = "aws:service-role/AmazonECSTaskExecutionRolePolicy"
_GATEWAY = "aws:service-role/AmazonAPIGatewayPushToCloudWatchLogs"
_BACKUP = "aws:service-role/AWSBackupServiceRolePolicyForBackup"
_NODE = "aws:AmazonSSMManagedInstanceCore"
_ADMIN = "aws:AdministratorAccess"
_POWER = "aws:PowerUserAccess"
_MEMBERS = "security tooling workload lake"
_PRODUCT = "checkout payments tracking"

ROLES = (
    RolePlan("AWSReservedSSO_AdministratorAccess_{hash}", "*", "sso", _ADMIN, shared_by="leads"),
    RolePlan("AWSReservedSSO_ReadOnlyAccess_{hash}", "*", "sso", "aws:ReadOnlyAccess", shared_by="platform security"),
    RolePlan("AWSReservedSSO_DeveloperAccess_{hash}", "workload lake", "sso", _POWER, shared_by=_PRODUCT),
    RolePlan("AWSReservedSSO_Billing_{hash}", "management", "sso", "aws:job-function/Billing", shared_by="finance"),
    RolePlan("OrganizationAccountAccessRole", _MEMBERS, "management", _ADMIN, idle_days=-1, age_days=1100),
    RolePlan("skylark-monitoring", _MEMBERS, "vendor", "aws:SecurityAudit vendor-extras"),
    RolePlan("break-glass", _MEMBERS, "management", _ADMIN, team="security", idle_days=212),
    RolePlan("backup-service-role", "workload lake", "backup", _BACKUP),
    _plan_linked("config", "AWSServiceRoleForConfig", "AWSConfigServiceRolePolicy"),
    _plan_linked("guardduty", "AWSServiceRoleForAmazonGuardDuty", "AmazonGuardDutyServiceRolePolicy"),
    _plan_linked("support", "AWSServiceRoleForSupport", "AWSSupportServiceRolePolicy"),
    _plan_linked("ecs", "AWSServiceRoleForECS", "AmazonECSServiceRolePolicy", "workload"),
    _plan_linked("autoscaling", "AWSServiceRoleForAutoScaling", "AutoScalingServiceRolePolicy", "workload"),
    _plan_linked("rds", "AWSServiceRoleForRDS", "AmazonRDSServiceRolePolicy", "workload"),
    # Accounts that run the product: DEV, QA, PROD.
    RolePlan("ci-deployer", "workload lake", "github", "ci-deploy"),
    RolePlan("app-engineer", "workload", "people", "app-engineer", team="checkout", shared_by=_PRODUCT),
    RolePlan("platform-engineer", "workload lake tooling", "people", "platform-engineer", shared_by="platform"),
    RolePlan("checkout-api-task", "workload", "task", "checkout-task", team="checkout"),
    RolePlan("payments-api-task", "workload", "task", "service-task", team="payments"),
    RolePlan("quotes-api-task", "PROD-workload QA-workload", "task", "service-task", team="checkout", age_days=5),
    RolePlan("ecs-task-execution", "workload", "task", _EXECUTION),
    RolePlan("tracking-ingest-lambda", "workload", "lambda", f"{_QUEUE} lambda-worker", team="tracking"),
    RolePlan("notify-mailer-lambda", "workload", "lambda", f"{_BASIC} lambda-worker", team="tracking"),
    RolePlan(
        "invoice-render-lambda",
        "workload",
        "lambda",
        f"{_BASIC} aws:AmazonS3FullAccess",
        team="payments",
        remade_days=21,
    ),
    RolePlan(
        "payments-webhook-lambda", "workload", "lambda", f"{_BASIC} aws:AmazonDynamoDBFullAccess", team="payments"
    ),
    RolePlan(
        "warehouse-sync-node", "workload", "node", f"{_NODE} aws:CloudWatchAgentServerPolicy", "bridge", team="tracking"
    ),
    RolePlan("bastion-node", "workload", "node", f"{_NODE} {_POWER}", idle_days=55),
    RolePlan("api-gateway-logs", "workload", "gateway", _GATEWAY, idle_days=40),
    RolePlan("load-test-runner", "QA-workload", "task", "service-task", team="checkout"),
    RolePlan(
        "sandbox-experiments", "DEV-workload", "lambda", "", "experiment", team="data", boundary="developer-boundary"
    ),
    RolePlan(
        "intern-2023", "DEV-workload", "people", _POWER, boundary="developer-boundary", idle_days=-1, age_days=900
    ),
    # The admin grant that was meant to last a weekend.
    RolePlan("migration-2024-admin", "PROD-workload", "itself", _ADMIN, idle_days=391, age_days=820),
    # The lake: data engineering and science.
    RolePlan("lake-glue-etl", "lake", "glue", "aws:service-role/AWSGlueServiceRole lake-work", team="data"),
    RolePlan("lake-compactor", "lake", "lambda", f"{_BASIC} lake-work", team="data"),
    RolePlan("lake-redshift-loader", "lake", "lambda", _BASIC, "redshift-load", team="data", idle_days=7),
    RolePlan("airflow-scheduler", "lake", "task", "", "orchestrate", team="data"),
    RolePlan("ml-training", "lake", "sagemaker", "", "train", team="data"),
    RolePlan("lake-firehose", "lake", "firehose", "", "deliver", team="data"),
    RolePlan("data-engineer", "lake", "people", _POWER, team="data", shared_by="data"),
    RolePlan("analyst", "lake", "people", "lake-read", team="data", shared_by="data finance"),
    # Tooling, security and management.
    RolePlan("gha-runner-node", "tooling", "node", _NODE, "assume-deployers"),
    RolePlan("image-builder", "tooling", "imagebuilder", _NODE, "bake"),
    RolePlan("artifact-publisher", "tooling", "github", "", "publish"),
    RolePlan("terraform-plan", "tooling", "github", "aws:ReadOnlyAccess"),
    RolePlan("terraform-apply", "tooling workload lake", "github", "terraform-apply"),
    RolePlan("guardduty-triage", "security", "people", "", "triage", team="security", shared_by="security"),
    RolePlan("siem-forwarder-lambda", "security", "lambda", _BASIC, "forward", team="security"),
    RolePlan(
        "incident-responder", "security", "people", "", "respond", team="security", idle_days=63, shared_by="security"
    ),
    RolePlan("security-auditor", "security", "people", "aws:SecurityAudit", team="security", shared_by="security"),
    RolePlan("org-admin", "management", "people", "", "organize", shared_by="leads"),
    RolePlan("cost-exporter-lambda", "management", "lambda", _BASIC, "count-costs", team="finance"),
)


@dataclass(frozen=True, slots=True)
class UserPlan:
    """An IAM user, in the one account that `where` names as RolePlan's does. `group` is of GROUPS, or ""."""

    name: str
    where: str
    attached: str = ""
    inline: str = ""
    group: str = ""
    team: str = "platform"
    age_days: int = 1000
    boundary: str = ""


USERS = (
    UserPlan("iris.lindqvist", "management", group="administrators", age_days=2100),
    UserPlan("break-glass-1", "management", inline="assume-break-glass", team="security"),
    UserPlan("break-glass-2", "management", inline="assume-break-glass", team="security"),
    UserPlan("svc-jenkins", "tooling", inline="mirror", age_days=1900),
    UserPlan("svc-artifact-mirror", "tooling", inline="mirror"),
    UserPlan("svc-legacy-ftp", "PROD-workload", "aws:AmazonS3FullAccess", team="tracking", age_days=2300),
    UserPlan("ses-smtp-user", "PROD-workload", inline="mail", team="tracking"),
    UserPlan("svc-qa-selenium", "QA-workload", "aws:ReadOnlyAccess", team="checkout"),
    UserPlan("noah.berg", "DEV-workload", "aws:IAMUserChangePassword", group="developers", team="checkout"),
    UserPlan("temp-contractor-07", "DEV-workload", group="developers", boundary="developer-boundary", age_days=480),
    UserPlan("svc-tableau", "lake", inline="look-up", team="data"),
)

GROUPS: Mapping[str, tuple[str, str]] = {
    "administrators": ("management", "aws:AdministratorAccess"),
    "developers": ("DEV-workload", "aws:PowerUserAccess"),
}
"""Name -> (where, attached)."""
