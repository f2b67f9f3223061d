"""The policies of the made-up company, in short form: AWS' managed ones by their names, and its own.

`{account}`, `{region}` and `{env}` stand for an account's own. AWS' policies are cut to what the demo needs: only their
names and their purpose are AWS'.
"""

from collections.abc import Mapping

from processor.demo.accounts import COMPANY, Json

Statements = tuple[Json, ...]


def allow(actions: str, on: str = "*", **rest: object) -> Json:
    """An Allow of space-separated action patterns on space-separated resources."""
    return _state("Allow", "Action", actions, on, rest)


def allow_all_but(actions: str, on: str = "*") -> Json:
    return _state("Allow", "NotAction", actions, on, {})


def deny(actions: str, on: str = "*", **rest: object) -> Json:
    return _state("Deny", "Action", actions, on, rest)


def _state(effect: str, key: str, actions: str, on: str, rest: Mapping[str, object]) -> Json:
    listed, held = actions.split(), on.split()
    return {
        "Effect": effect,
        key: listed if len(listed) > 1 else listed[0],
        "Resource": held if len(held) > 1 else held[0],
        **rest,
    }


READS = (
    "athena:Get* athena:List* autoscaling:Describe* backup:Describe* backup:List* ce:Get* cloudformation:Describe* "
    "cloudformation:Get* cloudformation:List* cloudfront:Get* cloudfront:List* cloudtrail:Describe* cloudtrail:Get* "
    "cloudtrail:LookupEvents cloudwatch:Describe* cloudwatch:Get* cloudwatch:List* config:Describe* config:Get* "
    "dynamodb:Describe* dynamodb:List* ec2:Describe* ec2:Get* ecr:Describe* ecr:List* ecs:Describe* ecs:List* "
    "elasticloadbalancing:Describe* glue:Get* glue:List* guardduty:Get* guardduty:List* iam:Generate* iam:Get* "
    "iam:List* iam:Simulate* kinesis:Describe* kinesis:List* kms:Describe* kms:Get* kms:List* lambda:Get* "
    "lambda:List* logs:Describe* logs:FilterLogEvents logs:Get* logs:StartQuery organizations:Describe* "
    "organizations:List* rds:Describe* rds:ListTagsForResource redshift:Describe* route53:Get* route53:List* "
    "s3:Get* s3:List* secretsmanager:Describe* secretsmanager:ListSecrets securityhub:Get* ses:Get* ses:List* "
    "sns:Get* sns:List* sqs:Get* sqs:List* ssm:Describe* ssm:Get* ssm:List* sts:GetCallerIdentity tag:Get*"
)
_AUDIT = (
    "access-analyzer:Get* access-analyzer:List* cloudtrail:Describe* cloudtrail:GetTrailStatus "
    "cloudtrail:ListTrails cloudwatch:Describe* config:Describe* config:Get* ec2:Describe* ecs:Describe* ecs:List* "
    "guardduty:Get* guardduty:List* iam:Generate* iam:Get* iam:List* kms:Describe* kms:GetKeyPolicy "
    "kms:GetKeyRotationStatus kms:List* lambda:GetPolicy lambda:List* logs:Describe* rds:Describe* s3:GetBucket* "
    "s3:GetEncryptionConfiguration s3:ListAllMyBuckets securityhub:Get* securityhub:List* sns:Get* sns:List* "
    "sqs:Get* sqs:List* ssm:Describe* sts:GetCallerIdentity tag:GetResources"
)
_WRITE_LOGS = "logs:CreateLogGroup logs:CreateLogStream logs:PutLogEvents"

AWS_POLICIES: Mapping[str, Statements] = {
    "AdministratorAccess": (allow("*"),),
    "PowerUserAccess": (
        allow_all_but("iam:* organizations:* account:*"),
        allow(
            "account:GetAccountInformation account:ListRegions iam:CreateServiceLinkedRole "
            "iam:DeleteServiceLinkedRole iam:ListRoles organizations:DescribeOrganization"
        ),
    ),
    "ReadOnlyAccess": (allow(READS),),
    "SecurityAudit": (allow(_AUDIT),),
    "job-function/Billing": (allow("billing:* budgets:* ce:* cur:* invoicing:* payments:* tax:* account:Get*"),),
    "AmazonS3FullAccess": (allow("s3:* s3-object-lambda:*"),),
    "AmazonDynamoDBFullAccess": (allow("dynamodb:* dax:* cloudwatch:GetMetricData kms:DescribeKey kms:ListAliases"),),
    "AmazonSSMManagedInstanceCore": (
        allow(
            "ssm:DescribeAssociation ssm:GetDocument ssm:GetManifest ssm:GetParameter ssm:GetParameters "
            "ssm:ListAssociations ssm:ListInstanceAssociations ssm:PutInventory ssm:PutComplianceItems "
            "ssm:UpdateAssociationStatus ssm:UpdateInstanceAssociationStatus ssm:UpdateInstanceInformation "
            "ssmmessages:* ec2messages:*"
        ),
    ),
    "CloudWatchAgentServerPolicy": (allow(f"cloudwatch:PutMetricData ec2:DescribeTags {_WRITE_LOGS} ssm:GetParameter"),),
    "IAMUserChangePassword": (allow("iam:ChangePassword", "arn:aws:iam::*:user/${aws:username}"),),
    "service-role/AWSLambdaBasicExecutionRole": (allow(_WRITE_LOGS),),
    "service-role/AWSLambdaSQSQueueExecutionRole": (
        allow(f"sqs:ReceiveMessage sqs:DeleteMessage sqs:GetQueueAttributes {_WRITE_LOGS}"),
    ),
    "service-role/AmazonECSTaskExecutionRolePolicy": (
        allow(
            "ecr:GetAuthorizationToken ecr:BatchCheckLayerAvailability ecr:GetDownloadUrlForLayer ecr:BatchGetImage "
            "logs:CreateLogStream logs:PutLogEvents"
        ),
    ),
    "service-role/AmazonAPIGatewayPushToCloudWatchLogs": (allow(f"{_WRITE_LOGS} logs:DescribeLogGroups logs:GetLogEvents"),),
    "service-role/AWSBackupServiceRolePolicyForBackup": (
        allow(
            "dynamodb:CreateBackup dynamodb:DeleteBackup dynamodb:DescribeBackup dynamodb:DescribeTable "
            "ec2:CreateSnapshot ec2:CreateTags ec2:DeleteSnapshot ec2:DescribeSnapshots ec2:DescribeVolumes "
            "kms:CreateGrant kms:DescribeKey rds:AddTagsToResource rds:CreateDBSnapshot rds:DeleteDBSnapshot "
            "rds:DescribeDBInstances rds:DescribeDBSnapshots"
        ),
    ),
    "service-role/AWSGlueServiceRole": (
        allow(f"glue:* s3:GetBucketLocation s3:ListBucket s3:ListAllMyBuckets ec2:Describe* {_WRITE_LOGS}"),
        allow("s3:GetObject s3:PutObject s3:DeleteObject", "arn:aws:s3:::aws-glue-*/*"),
    ),
    "aws-service-role/AWSConfigServiceRolePolicy": (allow(READS),),
    "aws-service-role/AWSSupportServiceRolePolicy": (allow(READS),),
    "aws-service-role/AmazonGuardDutyServiceRolePolicy": (allow("ec2:Describe* organizations:List* s3:GetBucket* lambda:List*"),),
    "aws-service-role/AmazonECSServiceRolePolicy": (
        allow("ec2:*NetworkInterface* ec2:Describe* elasticloadbalancing:* route53:* servicediscovery:*"),
    ),
    "aws-service-role/AutoScalingServiceRolePolicy": (allow("ec2:* elasticloadbalancing:* cloudwatch:*Alarm* sns:Publish"),),
    "aws-service-role/AmazonRDSServiceRolePolicy": (allow(f"ec2:* sns:Publish kinesis:* {_WRITE_LOGS}"),),
}  # fmt: skip
"""By the name that follows `arn:aws:iam::aws:policy/`."""

_OWN_ROLES = "arn:aws:iam::{account}:role/app/*"
_OWN_TABLES = "arn:aws:dynamodb:{region}:{account}:table/*"
_SECRETS = "arn:aws:secretsmanager:{region}:{account}:secret:{env}/*"
_LAKE = f"arn:aws:s3:::{COMPANY}-* arn:aws:s3:::{COMPANY}-*/*"
_TASK = (
    "secretsmanager:GetSecretValue secretsmanager:DescribeSecret ssm:GetParameters ssm:GetParametersByPath "
    "kms:Decrypt kms:GenerateDataKey sqs:SendMessage sqs:GetQueueUrl sns:Publish xray:PutTraceSegments "
    "xray:PutTelemetryRecords"
)
_MFA: Json = {"Bool": {"aws:MultiFactorAuthPresent": "true"}}

OWN_POLICIES: Mapping[str, tuple[Statements, ...]] = {
    "ci-deploy": (
        (allow("cloudformation:* ecr:* ecs:* lambda:* s3:* logs:*"), allow("iam:PassRole", _OWN_ROLES)),
        (
            allow("cloudformation:* ecr:* ecs:* lambda:* s3:* logs:* cloudfront:CreateInvalidation sts:* ssm:*"),
            # The grant that somebody widened on a Friday and nobody took back.
            allow("iam:*"),
        ),
    ),
    "app-engineer": (
        (
            allow(READS),
            allow("cloudwatch:* dynamodb:* ecs:* lambda:* logs:* sns:* sqs:* states:* xray:*"),
            allow("secretsmanager:GetSecretValue secretsmanager:PutSecretValue kms:Decrypt", _SECRETS),
            allow("ssm:StartSession ssm:TerminateSession", Condition=_MFA),
            deny("dynamodb:DeleteTable lambda:DeleteFunction"),
        ),
    ),
    "platform-engineer": (
        (
            allow_all_but("iam:* organizations:* account:* aws-portal:*"),
            allow("iam:Get* iam:List* iam:CreateRole iam:DeleteRole iam:PutRolePolicy iam:DeleteRolePolicy iam:TagRole"),
            allow("iam:AttachRolePolicy iam:DetachRolePolicy iam:UpdateAssumeRolePolicy iam:CreatePolicyVersion"),
            allow("iam:PassRole", _OWN_ROLES),
        ),
    ),
    "service-task": (
        (allow(_TASK), allow("dynamodb:GetItem dynamodb:PutItem dynamodb:Query", _OWN_TABLES)),
        (allow(_TASK), allow("dynamodb:GetItem dynamodb:PutItem dynamodb:Query dynamodb:UpdateItem", _OWN_TABLES)),
    ),
    "checkout-task": (
        (allow(_TASK), allow("dynamodb:GetItem dynamodb:PutItem dynamodb:Query", _OWN_TABLES)),
        (allow(_TASK), allow("dynamodb:*Item dynamodb:Query", _OWN_TABLES)),
        # Two days old when the demo begins: too new to be called unused.
        (allow(_TASK), allow("dynamodb:*Item dynamodb:Query dynamodb:DeleteTable dynamodb:CreateBackup", _OWN_TABLES)),
    ),
    "lambda-worker": (
        (
            allow("dynamodb:*Item dynamodb:Query dynamodb:Scan", _OWN_TABLES),
            allow("kms:Decrypt kms:GenerateDataKey s3:GetObject s3:PutObject ses:SendEmail secretsmanager:GetSecretValue"),
            allow("ec2:CreateNetworkInterface ec2:DescribeNetworkInterfaces ec2:DeleteNetworkInterface"),
        ),
    ),
    "lake-work": (
        (
            allow("s3:GetObject s3:PutObject s3:ListBucket s3:GetBucketLocation s3:Delete*", _LAKE),
            allow("glue:* athena:* kms:Decrypt kms:GenerateDataKey lakeformation:GetDataAccess"),
        ),
    ),
    "lake-read": (
        (
            allow("athena:*Query* athena:List* athena:GetWorkGroup glue:Get* glue:BatchGet* lakeformation:GetDataAccess"),
            allow("s3:GetObject s3:ListBucket s3:GetBucketLocation s3:PutObject", _LAKE),
        ),
    ),
    "terraform-apply": ((allow_all_but("organizations:LeaveOrganization account:CloseAccount"),),),
    "vendor-extras": ((allow("logs:FilterLogEvents lambda:InvokeFunction ec2:CreateTags support:*"),),),
    "developer-boundary": (
        (allow("*"), deny("iam:* organizations:* account:*"), deny("kms:ScheduleKeyDeletion kms:PutKeyPolicy")),
    ),
}  # fmt: skip
"""Customer managed policies, all versions from the oldest to the one in force."""

INLINE: Mapping[str, Statements] = {
    "assume-deployers": (allow("sts:AssumeRole", "arn:aws:iam::*:role/ci-deployer"),),
    "assume-break-glass": (allow("sts:AssumeRole", "arn:aws:iam::*:role/break-glass", Condition=_MFA),),
    "redshift-load": (
        allow("redshift-data:* redshift:GetClusterCredentials redshift:DescribeClusters"),
        allow("s3:GetObject s3:ListBucket", _LAKE),
    ),
    "orchestrate": (
        allow("athena:* glue:* states:* elasticmapreduce:* redshift-data:* batch:SubmitJob batch:DescribeJobs"),
        allow("iam:PassRole", "arn:aws:iam::{account}:role/lake-*"),
    ),
    "train": (allow(f"sagemaker:* ecr:* s3:* {_WRITE_LOGS} cloudwatch:PutMetricData iam:PassRole"),),
    "deliver": (
        allow("s3:AbortMultipartUpload s3:GetBucketLocation s3:ListBucket s3:PutObject kms:GenerateDataKey kms:Decrypt"),
        allow("glue:GetTable glue:GetTableVersions lambda:InvokeFunction logs:PutLogEvents"),
    ),
    "triage": (allow("guardduty:* securityhub:* access-analyzer:* detective:* inspector2:List* ec2:Describe* iam:Get* iam:List*"),),
    "forward": (allow("s3:GetObject s3:ListBucket sqs:* kms:Decrypt kms:GenerateDataKey"),),
    "respond": (
        allow("ec2:* iam:* lambda:* s3:* ssm:* guardduty:* cloudtrail:LookupEvents"),
        deny("iam:CreateUser iam:CreateAccessKey"),
    ),
    "organize": (allow("organizations:* account:* sso:* sso-directory:* identitystore:* controltower:*"),),
    "count-costs": (allow("ce:* cur:* s3:PutObject s3:GetObject organizations:ListAccounts"),),
    "publish": (allow(f"ecr:* codeartifact:* s3:PutObject s3:GetObject s3:ListBucket {_WRITE_LOGS}"),),
    "bake": (allow("ec2:* ssm:* imagebuilder:* kms:CreateGrant kms:Decrypt kms:GenerateDataKey iam:PassRole"),),
    "bridge": (allow("s3:GetObject s3:PutObject s3:ListBucket s3:DeleteObject"), allow("kms:* sqs:*")),
    "mirror": (allow("codeartifact:* ecr:* s3:* secretsmanager:*"),),
    "mail": (allow("ses:SendRawEmail ses:SendEmail"),),
    "experiment": (allow("bedrock:* sagemaker:* lambda:* s3:*"),),
    "look-up": (allow("athena:* glue:Get* s3:GetObject s3:ListBucket s3:PutObject s3:GetBucketLocation"),),
}  # fmt: skip
"""Documents of inline policies, of roles, users and groups alike."""
