"""The tables of calls.py: parameters, answers and resources of each call that the made-up company makes.

`{name}` in a text stands for something of the moment (scenes.py); doubled braces are braces. Parameters that are only
texts are written `key={value} key={value}`. Names are CloudTrail's own, so with the API version where a service still
writes one, and so are the forms: lists as `{"items": [...]}` with EC2, header names with S3, hidden values hidden.
"""

from collections.abc import Mapping
from typing import Any

Template = str | Mapping[str, Any] | None

_EC2_IDS = {"instancesSet": {"items": [{"instanceId": "{instance}"}]}}
_KEY = (("AWS::KMS::Key", "arn:aws:kms:{region}:{account}:key/{key}"),)
_BUCKET = ("AWS::S3::Bucket", "arn:aws:s3:::{bucket}")
_OBJECT = (("AWS::S3::Object", "arn:aws:s3:::{bucket}/{object}"), _BUCKET)
_TABLE = (("AWS::DynamoDB::Table", "arn:aws:dynamodb:{region}:{account}:table/{table}"),)
_FUNCTION_ARN = "arn:aws:lambda:{region}:{account}:function:{function}"
_FUNCTION = (("AWS::Lambda::Function", _FUNCTION_ARN),)
_KEPT = "secretId=arn:aws:secretsmanager:{region}:{account}:secret:{env}/{service}"
_CONTEXT = {"encryptionContext": {"SecretARN": "arn:aws:secretsmanager:{region}:{account}:secret:{env}/{service}"}}
_OBJECT_CONTEXT = {"aws:s3:arn": "arn:aws:s3:::{bucket}/{object}"}
_S3_HOST = "bucketName={bucket} Host={bucket}.s3.{region}.amazonaws.com"
_DOCUMENT = '{{"Version": "2012-10-17", "Statement": []}}'
_IMAGE = {"repositoryName": "{repository}", "imageIds": [{"imageDigest": "sha256:{digest}"}]}

READS: tuple[tuple[str, Template], ...] = (
    ("ec2:DescribeInstances", {**_EC2_IDS, "filterSet": {}}),
    ("ec2:DescribeVpcs DescribeSubnets DescribeSecurityGroups DescribeRouteTables DescribeAddresses", {"filterSet": {}}),
    ("ec2:DescribeVolumes DescribeSnapshots DescribeNetworkInterfaces", {"maxResults": 100, "filterSet": {}}),
    ("ec2:DescribeInstanceStatus", {**_EC2_IDS, "includeAllInstances": True}),
    ("ec2:DescribeRegions DescribeAccountAttributes", {}),
    ("ec2:DescribeTags", {"maxResults": 1000}),
    ("ecs:ListClusters", {"maxResults": 100}),
    ("ecs:ListServices", "cluster={cluster} launchType=FARGATE"),
    ("ecs:DescribeServices", {"cluster": "{cluster}", "services": ["{service}"]}),
    ("ecs:DescribeTaskDefinition", "taskDefinition={service}:{number}"),
    ("ecs:DescribeTasks", {"cluster": "{cluster}", "tasks": ["{task}"]}),
    ("ecr:GetAuthorizationToken", None),
    ("ecr:BatchCheckLayerAvailability", {"repositoryName": "{repository}", "layerDigests": ["sha256:{digest}"]}),
    ("ecr:GetDownloadUrlForLayer", "repositoryName={repository} layerDigest=sha256:{digest}"),
    ("ecr:BatchGetImage DescribeImages", _IMAGE),
    ("lambda:ListFunctions20150331", {"maxItems": 50}),
    ("lambda:GetFunction20150331v2 GetFunctionConfiguration20150331v2", "functionName={function}"),
    ("lambda:GetPolicy20150331v2", "functionName={function}"),
    ("logs:DescribeLogGroups", {"logGroupNamePrefix": "/aws/lambda/", "limit": 50}),
    ("logs:DescribeLogStreams", {"logGroupName": "{log_group}", "orderBy": "LastEventTime", "descending": True}),
    ("logs:GetQueryResults", "queryId={uuid}"),
    ("logs:StartQuery", {"logGroupName": "{log_group}", "startTime": 1700000000, "queryString": "fields @message"}),
    ("monitoring:DescribeAlarms", {"maxRecords": 100}),
    ("monitoring:ListMetrics", "namespace=AWS/ECS"),
    ("dynamodb:ListTables", {"limit": 100}),
    ("dynamodb:DescribeTable", "tableName={table}"),
    ("sqs:ListQueues", "queueNamePrefix={service}"),
    ("sqs:GetQueueAttributes", {"queueUrl": "{queue}", "attributeNames": ["All"]}),
    ("sns:ListTopics GetTopicAttributes", "topicArn=arn:aws:sns:{region}:{account}:{service}-events"),
    ("rds:DescribeDBInstances", "dBInstanceIdentifier={database}"),
    ("rds:DescribeDBClusters DescribeDBSnapshots", {"maxRecords": 100}),
    ("elasticloadbalancing:DescribeLoadBalancers DescribeTargetGroups", {"pageSize": 400}),
    (
        "elasticloadbalancing:DescribeTargetHealth",
        "targetGroupArn=arn:aws:elasticloadbalancing:{region}:{account}:targetgroup/{service}/{hex16}",
    ),
    ("autoscaling:DescribeAutoScalingGroups", {"maxRecords": 100}),
    ("cloudformation:DescribeStacks DescribeStackEvents", "stackName={stack}"),
    ("cloudformation:DescribeChangeSet", "stackName={stack} changeSetName=release-{number}"),
    ("cloudfront:ListDistributions2020_05_31", None),
    ("route53:ListHostedZones", None),
    ("s3:ListBuckets", "Host=s3.{region}.amazonaws.com"),
    ("s3:GetBucketLocation", _S3_HOST + " location="),
    ("s3:GetBucketPolicy", _S3_HOST + " policy="),
    ("s3:GetBucketAcl", _S3_HOST + " acl="),
    ("s3:GetBucketEncryption", _S3_HOST + " encryption="),
    ("s3:GetBucketVersioning", _S3_HOST + " versioning="),
    ("s3:GetBucketPublicAccessBlock", _S3_HOST + " publicAccessBlock="),
    ("secretsmanager:ListSecrets", {"maxResults": 100}),
    ("secretsmanager:DescribeSecret GetSecretValue", _KEPT),
    ("ssm:GetParameters", {"names": ["/{env}/{service}/config"], "withDecryption": True}),
    ("ssm:GetParametersByPath", {"path": "/{env}/{service}/", "recursive": True, "withDecryption": True}),
    ("ssm:DescribeInstanceInformation", {"maxResults": 50}),
    ("ssm:ListInstanceAssociations", {"instanceId": "{instance}", "maxResults": 20}),
    ("kms:ListAliases ListKeys", {"limit": 100}),
    ("iam:ListRoles ListUsers ListPolicies", {"maxItems": 100}),
    ("iam:GetRole ListRolePolicies ListAttachedRolePolicies", "roleName={some_role}"),
    ("iam:GetRolePolicy", "roleName={some_role} policyName=inline"),
    ("iam:GetAccountSummary GetAccountPasswordPolicy GenerateCredentialReport GetCredentialReport", None),
    ("sts:GetCallerIdentity", None),
    ("cloudtrail:DescribeTrails", {"trailNameList": [], "includeShadowTrails": True}),
    ("cloudtrail:GetTrailStatus", "name=organization-trail"),
    ("cloudtrail:LookupEvents", {"maxResults": 50}),
    ("config:DescribeConfigurationRecorders", None),
    ("guardduty:ListDetectors", {"maxResults": 50}),
    ("guardduty:ListFindings", {"detectorId": "{detector}", "maxResults": 50}),
    ("guardduty:GetFindings", {"detectorId": "{detector}", "findingIds": ["{hex32}"]}),
    ("securityhub:GetFindings", {"MaxResults": 100}),
    ("access-analyzer:ListFindings", "analyzerArn=arn:aws:access-analyzer:{region}:{account}:analyzer/organization"),
    ("organizations:ListAccounts DescribeOrganization ListRoots", None),
    ("organizations:ListParents", "childId={account}"),
    ("ce:GetCostAndUsage", {"granularity": "DAILY", "metrics": ["UnblendedCost"]}),
    ("tagging:GetResources", {"resourcesPerPage": 100}),
    ("athena:GetQueryExecution GetQueryResults", "queryExecutionId={uuid}"),
    ("glue:GetDatabases", {"maxResults": 100}),
    ("glue:GetTables", {"databaseName": "{database}", "maxResults": 100}),
    ("glue:GetTable", "databaseName={database} name=events"),
    ("glue:GetJobRun", "jobName={service} runId=jr_{hex32}"),
    ("redshift-data:DescribeStatement", "id={uuid}"),
    ("backup:ListBackupJobs", {"maxResults": 100}),
    ("codeartifact:GetAuthorizationToken", {"domain": "harbourlight", "durationSeconds": 3600}),
)  # fmt: skip

READS_OF: tuple[tuple[str, Template, tuple[tuple[str, str], ...]], ...] = (
    ("kms:DescribeKey GetKeyPolicy", "keyId={key}", _KEY),
    ("kms:Decrypt", {**_CONTEXT, "encryptionAlgorithm": "SYMMETRIC_DEFAULT"}, _KEY),
    ("kms:GenerateDataKey", {"keyId": "{key}", "keySpec": "AES_256", "encryptionContext": _OBJECT_CONTEXT}, _KEY),
)
"""Read-only calls that name the resources that they touch."""

WRITES: tuple[tuple[str, Template, Template], ...] = (
    ("ecr:InitiateLayerUpload", "repositoryName={repository}", {"uploadId": "{uuid}", "partSize": 10485760}),
    ("ecr:UploadLayerPart", {"repositoryName": "{repository}", "partFirstByte": 0, "partLastByte": 4718591}, None),
    (
        "ecr:CompleteLayerUpload",
        {"repositoryName": "{repository}", "uploadId": "{uuid}", "layerDigests": ["sha256:{digest}"]},
        "repositoryName={repository} layerDigest=sha256:{digest}",
    ),
    ("ecr:PutImage", {"repositoryName": "{repository}", "imageTag": "main-{hex8}"}, {"image": _IMAGE}),
    (
        "ecs:UpdateService",
        {"cluster": "{cluster}", "service": "{service}", "forceNewDeployment": True},
        {"service": {"serviceName": "{service}", "status": "ACTIVE", "desiredCount": 3, "runningCount": 3}},
    ),
    (
        "lambda:UpdateFunctionCode20150331v2",
        "functionName={function} s3Bucket={bucket} s3Key=builds/{hex32}.zip",
        {
            "functionName": "{function}", "functionArn": _FUNCTION_ARN, "runtime": "python3.13", "timeout": 30,
            "environment": {}, "revisionId": "{uuid}", "state": "Active", "lastUpdateStatus": "InProgress",
        },
    ),
    ("lambda:PublishVersion20150331", "functionName={function}", {"functionName": "{function}", "version": "{number}"}),
    ("lambda:UpdateAlias20150331", "functionName={function} name=live functionVersion={number}", "name=live"),
    (
        "cloudformation:CreateChangeSet",
        {"stackName": "{stack}", "changeSetName": "release-{number}", "capabilities": ["CAPABILITY_IAM"]},
        "id=arn:aws:cloudformation:{region}:{account}:changeSet/release-{number}/{uuid}",
    ),
    ("cloudformation:ExecuteChangeSet", "stackName={stack} changeSetName=release-{number}", None),
    ("cloudfront:CreateInvalidation2020_05_31", {"distributionId": "E{hex12}"}, {"invalidation": {"id": "I{hex12}"}}),
    ("logs:CreateLogStream", "logGroupName={log_group} logStreamName={log_stream}", None),
    ("logs:PutRetentionPolicy", {"logGroupName": "{log_group}", "retentionInDays": 30}, None),
    ("ssm:UpdateInstanceInformation", "instanceId={instance} agentName=amazon-ssm-agent platformType=Linux", None),
    ("ssm:PutInventory", "instanceId={instance}", None),
    (
        "ec2:CreateNetworkInterface",
        "subnetId={subnet} description=AWS_Lambda_VPC_ENI",
        {"networkInterface": {"subnetId": "{subnet}"}},
    ),
    ("ec2:CreateSnapshot", "volumeId={volume}", "snapshotId={snapshot} volumeId={volume} status=pending"),
    ("ec2:DeleteSnapshot", "snapshotId={snapshot}", {"_return": True}),
    (
        "ec2:CreateTags",
        {"resourcesSet": {"items": [{"resourceId": "{snapshot}"}]}, "tagSet": {"items": [{"key": "team", "value": "{service}"}]}},
        {"_return": True},
    ),
    (
        "ec2:AuthorizeSecurityGroupIngress",
        {"groupId": "{group}", "ipPermissions": {"items": [{"ipProtocol": "tcp", "fromPort": 443, "toPort": 443}]}},
        {"_return": True},
    ),
    ("ec2:RunInstances", {**_EC2_IDS, "instanceType": "c7g.large", "imageId": "{image}"}, _EC2_IDS),
    ("ec2:CreateImage", "instanceId={instance} name=base-{number}", "imageId={image}"),
    ("ec2:TerminateInstances", _EC2_IDS, _EC2_IDS),
    ("rds:CreateDBSnapshot", "dBSnapshotIdentifier={database}-{number} dBInstanceIdentifier={database}", "status=creating"),
    ("dynamodb:CreateBackup", "tableName={table} backupName=nightly-{number}", {"backupDetails": {"backupStatus": "CREATING"}}),
    ("elasticloadbalancing:RegisterTargets DeregisterTargets", {"targets": [{"id": "{address}", "port": 8080}]}, None),
    ("sqs:CreateQueue", "queueName={service}-retry", "queueUrl={queue}"),
    ("secretsmanager:PutSecretValue", _KEPT, "name={env}/{service} versionId={uuid}"),
    (
        "athena:StartQueryExecution",
        {"queryString": "HIDDEN_DUE_TO_SECURITY_REASONS", "workGroup": "primary", "clientRequestToken": "{uuid}"},
        "queryExecutionId={uuid}",
    ),
    ("glue:StartJobRun", "jobName={service}", "jobRunId=jr_{hex32}"),
    ("glue:BatchCreatePartition UpdateTable", "databaseName={database} tableName=events", None),
    ("redshift-data:ExecuteStatement", "clusterIdentifier=lake database=dwh sql=HIDDEN_DUE_TO_SECURITY_REASONS", "id={uuid}"),
    ("states:StartExecution", "stateMachineArn=arn:aws:states:{region}:{account}:stateMachine:{service}", "executionArn={uuid}"),
    ("guardduty:ArchiveFindings", {"detectorId": "{detector}", "findingIds": ["{hex32}"]}, None),
    ("securityhub:BatchUpdateFindings", {"Workflow": {"Status": "RESOLVED"}}, {"UnprocessedFindings": []}),
    ("codeartifact:PublishPackageVersion", "domain=harbourlight repository=internal package={service}", "status=Published"),
    ("iam:CreateRole", "roleName={some_role} path=/app/", {"role": {"roleName": "{some_role}", "path": "/app/"}}),
    ("iam:DeleteRole", "roleName={some_role}", None),
    ("iam:PutRolePolicy", {"roleName": "{some_role}", "policyName": "inline", "policyDocument": _DOCUMENT}, None),
    (
        "iam:CreatePolicyVersion",
        {"policyArn": "arn:aws:iam::{account}:policy/checkout-task", "setAsDefault": True},
        {"policyVersion": {"versionId": "v3", "isDefaultVersion": True}},
    ),
    ("iam:UpdateAssumeRolePolicy", {"roleName": "{some_role}", "policyDocument": _DOCUMENT}, None),
    (
        "lambda:CreateFunction20150331",
        {
            "functionName": "{function}", "runtime": "python3.13", "role": "arn:aws:iam::{account}:role{passed_role}",
            "handler": "main.run", "code": {}, "publish": False, "packageType": "Zip", "environment": {},
        },
        {"functionName": "{function}", "functionArn": _FUNCTION_ARN, "state": "Pending", "stateReasonCode": "Creating"},
    ),
    (
        "ssm:StartSession",
        "target={instance}",
        {
            "sessionId": "{operator}-{hex16}", "tokenValue": "Value hidden due to security reasons.",
            "streamUrl": "wss://ssmmessages.{region}.amazonaws.com/v1/data-channel/{operator}-{hex16}",
        },
    ),
    (
        "rds:ModifyDBInstance",
        {"dBInstanceIdentifier": "{database}", "applyImmediately": True, "masterUserPassword": "****"},
        {"dBInstanceIdentifier": "{database}", "pendingModifiedValues": {"masterUserPassword": "****"}},
    ),
)  # fmt: skip

DATA_EVENTS: tuple[tuple[str, bool, Template, tuple[tuple[str, str], ...]], ...] = (
    ("s3:GetObject HeadObject", True, _S3_HOST + " key={object}", _OBJECT),
    ("s3:PutObject", False, _S3_HOST + " key={object} x-amz-server-side-encryption=aws:kms", _OBJECT),
    ("s3:ListObjects", True, {"bucketName": "{bucket}", "list-type": "2", "prefix": "in/"}, (_BUCKET,)),
    ("dynamodb:GetItem Query", True, {"tableName": "{table}", "key": {"pk": "HIDDEN_DUE_TO_SECURITY_REASONS"}}, _TABLE),
    ("dynamodb:PutItem UpdateItem", False, {"tableName": "{table}", "key": {"pk": "HIDDEN_DUE_TO_SECURITY_REASONS"}}, _TABLE),
    ("lambda:Invoke", False, "functionName=" + _FUNCTION_ARN + " invocationType=Event", _FUNCTION),
)  # fmt: skip
"""(names, read-only, parameters, resources)."""
