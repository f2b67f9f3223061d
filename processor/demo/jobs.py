"""What the made-up company's principals do all day: the table of their jobs.

A row is a burst of calls that somebody makes so many times a week, in relation to the other rows. Steps are keys of
calls.py: `!` before one is a refusal, `~` another failure, `*3` three times, `@kms` made by that service on the
principal's behalf, `sts:AssumeRole>NAME` a session of that role in an account of the product; a name without a source
is of the source before it. What is granted in staff.py and stands in no row is what the demo is about.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from processor.demo.calls import Call
from processor.demo.principals import DemoPrincipal, stands_in


@dataclass(frozen=True, slots=True)
class Job:
    """`who` is the beginning of the names of roles and users that have this job; `where` narrows it as in staff.py."""

    who: str
    client: str
    rhythm: str
    per_week: float
    steps: str
    where: str = "*"


_SECRET = "secretsmanager:GetSecretValue kms:Decrypt@secretsmanager"  # noqa: S105 - two calls
_PUSH = (
    "ecr:GetAuthorizationToken BatchCheckLayerAvailability*3 InitiateLayerUpload UploadLayerPart*2 "
    "ecr:CompleteLayerUpload PutImage"
)
_PULL = "ecr:GetAuthorizationToken BatchGetImage GetDownloadUrlForLayer*3"
_LOOK = "ecs:ListClusters ListServices DescribeServices DescribeTasks monitoring:DescribeAlarms"
_PLAN = (
    "sts:GetCallerIdentity ec2:DescribeVpcs DescribeSubnets DescribeSecurityGroups DescribeRouteTables "
    "iam:GetRole*2 ListRolePolicies ListAttachedRolePolicies GetRolePolicy kms:DescribeKey GetKeyPolicy "
    "rds:DescribeDBInstances elasticloadbalancing:DescribeLoadBalancers s3:GetBucketPolicy GetBucketVersioning"
)
_BUCKETS = "s3:GetBucketLocation GetBucketAcl GetBucketVersioning ~GetBucketPolicy ~GetBucketEncryption"

JOBS = (
    # People.
    Job("app-engineer", "console", "office", 30, _LOOK),
    Job("app-engineer", "console", "office", 22, "logs:DescribeLogGroups StartQuery GetQueryResults*3"),
    Job("app-engineer", "cli", "office", 12,
        "lambda:ListFunctions20150331 GetFunction20150331v2 logs:DescribeLogStreams"),
    Job("app-engineer", "cli", "office", 10, "dynamodb:ListTables DescribeTable sqs:ListQueues GetQueueAttributes"),
    Job("app-engineer", "cli", "office", 3, "!iam:CreateRole !ec2:RunInstances"),
    Job("app-engineer", "console", "office", 4, _SECRET, "DEV-workload"),
    Job("app-engineer", "cli", "office", 6,
        "lambda:UpdateFunctionCode20150331v2 PublishVersion20150331", "DEV-workload"),
    Job("app-engineer", "cli", "office", 5, "ecs:UpdateService DescribeServices*2", "DEV-workload QA-workload"),
    Job("platform-engineer", "console", "office", 12, "ec2:DescribeInstances DescribeInstanceStatus DescribeVolumes"),
    Job("platform-engineer", "cli", "office", 8,
        "ec2:DescribeSecurityGroups AuthorizeSecurityGroupIngress", "workload"),
    Job("platform-engineer", "terraform", "office", 3, _PLAN + " iam:CreateRole PutRolePolicy", "DEV-workload"),
    Job("platform-engineer", "terraform", "office", 5, _PLAN),
    Job("platform-engineer", "cli", "office", 3, "rds:DescribeDBClusters DescribeDBSnapshots ~ec2:DescribeInstances"),
    Job("AWSReservedSSO_Admin", "console", "office", 2,
        "iam:ListRoles ListUsers cloudtrail:DescribeTrails ec2:DescribeRegions"),
    Job("AWSReservedSSO_ReadOnly", "console", "office", 5,
        "ec2:DescribeInstances s3:ListBuckets rds:DescribeDBInstances"),
    Job("AWSReservedSSO_ReadOnly", "console", "office", 3,
        "cloudformation:DescribeStacks lambda:ListFunctions20150331 !s3:PutObject"),
    Job("AWSReservedSSO_Developer", "console", "office", 6, _LOOK + " sqs:CreateQueue sns:ListTopics", "DEV-workload"),
    Job("AWSReservedSSO_Developer", "console", "office", 4,
        "dynamodb:ListTables logs:DescribeLogGroups !iam:ListUsers"),
    Job("AWSReservedSSO_Billing", "console", "office", 6, "ce:GetCostAndUsage*2"),
    Job("data-engineer", "cli", "office", 20, "glue:GetDatabases GetTables GetTable athena:StartQueryExecution"),
    Job("data-engineer", "console", "office", 10, "glue:StartJobRun GetJobRun*3 s3:ListObjects GetObject*2"),
    Job("analyst", "console", "office", 30, "athena:StartQueryExecution GetQueryExecution*3 GetQueryResults"),
    Job("analyst", "console", "office", 6, "glue:GetDatabases GetTables !StartJobRun*2"),
    Job("guardduty-triage", "console", "office", 15, "guardduty:ListDetectors ListFindings GetFindings*2"),
    Job("guardduty-triage", "console", "office", 4,
        "securityhub:GetFindings guardduty:ArchiveFindings access-analyzer:ListFindings"),
    Job("security-auditor", "cli", "monday", 3,
        "iam:ListUsers GenerateCredentialReport GetCredentialReport s3:ListBuckets"),
    Job("org-admin", "console", "office", 5, "organizations:DescribeOrganization ListAccounts ListRoots"),
    # Deployments.
    Job("ci-deployer", "github", "release", 14, _PUSH + " ecs:DescribeServices UpdateService DescribeServices*3"),
    Job("ci-deployer", "github", "office", 10,
        "lambda:GetFunction20150331v2 s3:PutObject lambda:UpdateFunctionCode20150331v2"),
    Job("ci-deployer", "github", "release", 8, "lambda:PublishVersion20150331 UpdateAlias20150331"),
    Job(
        "ci-deployer", "github", "release", 6,
        "~cloudformation:DescribeStacks CreateChangeSet DescribeChangeSet*2 "
        "cloudformation:ExecuteChangeSet DescribeStackEvents*3",
    ),
    Job("terraform-plan", "terraform", "office", 15, _PLAN + " ~iam:GetRole"),
    Job("terraform-apply", "terraform", "release", 4, _PLAN + " logs:PutRetentionPolicy ec2:CreateTags"),
    Job("artifact-publisher", "github", "office", 12, "codeartifact:GetAuthorizationToken PublishPackageVersion"),
    Job("artifact-publisher", "github", "office", 8, _PUSH),
    Job("gha-runner-node", "node", "office", 25, "sts:AssumeRole>ci-deployer"),
    Job("image-builder", "service", "sunday", 2,
        "ec2:RunInstances DescribeInstanceStatus*3 CreateImage TerminateInstances"),
    # Workloads.
    Job("checkout-api-task", "task", "busy", 40, _SECRET + " ssm:GetParameters"),
    Job("checkout-api-task", "task", "busy", 60, "dynamodb:GetItem*2 PutItem UpdateItem"),
    Job("payments-api-task", "task", "busy", 40, _SECRET + " kms:GenerateDataKey"),
    Job("payments-api-task", "task", "busy", 30, "dynamodb:Query PutItem"),
    Job("quotes-api-task", "task", "busy", 25, "ssm:GetParametersByPath dynamodb:Query*2"),
    Job("load-test-runner", "task", "release", 8, _SECRET + " ssm:GetParametersByPath"),
    Job("ecs-task-execution", "service", "busy", 30, _PULL + " logs:CreateLogStream"),
    Job("tracking-ingest-lambda", "lambda", "busy", 60, "logs:CreateLogStream s3:PutObject kms:GenerateDataKey@s3"),
    Job("tracking-ingest-lambda", "lambda", "busy", 20,
        "ec2:CreateNetworkInterface DescribeNetworkInterfaces dynamodb:PutItem*2"),
    Job("notify-mailer-lambda", "lambda", "busy", 40, "logs:CreateLogStream kms:Decrypt"),
    Job("invoice-render-lambda", "lambda", "night", 30, "logs:CreateLogStream s3:GetObject PutObject*2"),
    Job("payments-webhook-lambda", "lambda", "busy", 30, "logs:CreateLogStream dynamodb:GetItem UpdateItem"),
    Job("warehouse-sync-node", "node", "steady", 60, "ssm:UpdateInstanceInformation ListInstanceAssociations"),
    Job("warehouse-sync-node", "node", "night", 14, "s3:ListObjects GetObject*4 ssm:PutInventory"),
    Job("sandbox-experiments", "lambda", "office", 6, "s3:GetObject !iam:ListRoles"),
    Job("lake-glue-etl", "service", "night", 30,
        "glue:GetTable s3:GetObject*4 kms:Decrypt@s3 s3:PutObject*3 glue:BatchCreatePartition"),
    Job("lake-compactor", "lambda", "steady", 60,
        "logs:CreateLogStream s3:ListObjects GetObject*3 PutObject glue:UpdateTable"),
    Job("airflow-scheduler", "task", "steady", 50,
        "glue:StartJobRun GetJobRun*2 athena:StartQueryExecution GetQueryExecution"),
    Job("airflow-scheduler", "task", "night", 14, "states:StartExecution redshift-data:DescribeStatement"),
    Job("ml-training", "service", "night", 7, _PULL + " s3:GetObject*3 PutObject logs:CreateLogStream"),
    Job("lake-firehose", "service", "steady", 80, "glue:GetTable s3:PutObject kms:GenerateDataKey@s3"),
    Job("siem-forwarder-lambda", "lambda", "steady", 80, "logs:CreateLogStream s3:GetObject*2 kms:Decrypt@s3"),
    Job("cost-exporter-lambda", "lambda", "night", 7,
        "logs:CreateLogStream ce:GetCostAndUsage organizations:ListAccounts s3:PutObject"),
    Job("backup-service-role", "service", "night", 14, "ec2:DescribeVolumes CreateSnapshot CreateTags DeleteSnapshot"),
    Job("backup-service-role", "service", "night", 7, "rds:DescribeDBInstances CreateDBSnapshot dynamodb:CreateBackup"),
    # Those who watch.
    Job("skylark-monitoring", "vendor", "steady", 14,
        "ec2:DescribeInstances DescribeVolumes rds:DescribeDBInstances tagging:GetResources"),
    Job("skylark-monitoring", "vendor", "steady", 10,
        "ecs:ListClusters lambda:ListFunctions20150331 sqs:ListQueues monitoring:DescribeAlarms"),
    Job("skylark-monitoring", "vendor", "steady", 5,
        "s3:ListBuckets GetBucketLocation*2 !athena:GetQueryResults !ce:GetCostAndUsage"),
    Job("AWSServiceRoleForConfig", "service", "steady", 12, _BUCKETS + " iam:GetRole ec2:DescribeVpcs"),
    Job("AWSServiceRoleForAmazonGuardDuty", "service", "steady", 6, "ec2:DescribeInstances DescribeVpcs"),
    Job("AWSServiceRoleForECS", "service", "busy", 20, "elasticloadbalancing:RegisterTargets DeregisterTargets"),
    Job("AWSServiceRoleForAutoScaling", "service", "busy", 15,
        "ec2:DescribeInstanceStatus elasticloadbalancing:DescribeTargetHealth"),
    # IAM users.
    Job("svc-jenkins", "sdk", "office", 10,
        "ecr:GetAuthorizationToken codeartifact:GetAuthorizationToken s3:PutObject"),
    Job("svc-artifact-mirror", "sdk", "night", 14, "s3:ListObjects PutObject*2"),
    Job("svc-legacy-ftp", "sdk", "steady", 30, "s3:ListObjects PutObject"),
    Job("svc-qa-selenium", "sdk", "office", 10, "ecs:DescribeServices rds:DescribeDBInstances"),
    Job("noah.berg", "console", "office", 2, "ec2:DescribeInstances DescribeRegions"),
    Job("svc-tableau", "sdk", "office", 25, "athena:StartQueryExecution GetQueryExecution GetQueryResults"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a burst. `target` is the role of `sts:AssumeRole>NAME`, for which there is no call."""

    call: Call | None
    denied: bool = False
    failed: bool = False
    via: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """A job of one principal, its steps parsed."""

    principal: DemoPrincipal
    client: str
    rhythm: str
    per_week: float
    steps: tuple[Step, ...]


def bind_jobs(principals: Sequence[DemoPrincipal], calls: dict[str, Call]) -> tuple[Work, ...]:
    """The jobs of all principals. Data events that an account's trail does not log are left out."""
    return tuple(work for job in JOBS for work in _bind_job(job, principals, calls))


def _bind_job(job: Job, principals: Sequence[DemoPrincipal], calls: dict[str, Call]) -> Iterator[Work]:
    steps = parse_steps(job.steps, calls)
    for principal in principals:
        if not principal.name.startswith(job.who) or not stands_in(job.where, principal.account):
            continue
        logged = principal.account.data_events
        kept = tuple(
            step for step in steps if step.call is None or not step.call.data_event or step.call.prefix in logged
        )
        if kept:
            yield Work(principal, job.client, job.rhythm, job.per_week, kept)


def parse_steps(text: str, calls: dict[str, Call]) -> tuple[Step, ...]:
    """The steps of a job. Raises KeyError for a call that calls.py does not have."""
    steps: list[Step] = []
    source = ""
    for word in text.split():
        named, _, times = word.partition("*")
        named, _, target = named.partition(">")
        name, _, via = named.lstrip("!~").partition("@")
        if ":" in name:
            source, _, name = name.partition(":")
        marks = named[: len(named) - len(named.lstrip("!~"))]
        call = None if target else calls[f"{source}:{name}"]
        steps += [Step(call, "!" in marks, "~" in marks, via, target)] * int(times or 1)
    return tuple(steps)
