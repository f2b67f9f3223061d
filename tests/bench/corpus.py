"""A made-up company's CloudTrail and IAM for the benchmark: the same bytes for the same arguments.

    python tests/bench/corpus.py --records 1000000 --out DIR [--principals 2000]
    python tests/bench/corpus.py --small --out DIR

Into DIR go:
- AWSLogs/ACCOUNT/CloudTrail/REGION/Y/M/D/ACCOUNT_CloudTrail_REGION_TIMEZ_ID.json.gz: `{"Records":[...]}`, gzip level 6,
  keys in CloudTrail's own order, 30 days of event time, files named by the time of their delivery;
- inventory-ACCOUNT.json for each of 20 accounts, as `aws iam get-account-authorization-details` prints it;
- eventbridge.lp: the first 100,000 records as EventBridge events, each behind its length (u32, little endian);
- cwl.lp: the same records as CloudWatch Logs subscription batches: count (u32), length (u32), gzip of the batch;
- manifest.json: the arguments, counts and bytes, and `classes`: how many records were written to end in each class.

Shapes follow ../shared/data/cloudtrail. Where its stratus-red-team file is present, a third of the calls that it holds
are its records with a new caller, place, time and ids; `real_shapes` in the manifest says how many it had.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import re
import shutil
import struct
from base64 import b64encode
from bisect import bisect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

START_SECONDS = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp())
SPAN_SECONDS = 30 * 86_400
SEGMENT_RECORDS = 20_000
"""A segment of the log has a seed of its own, so that two processes write what one would."""

FRAMED_RECORDS = 100_000
BATCH_BYTES_MAX = 400_000
ACCOUNTS = 20
REGIONS = {"us-east-1": 6, "eu-west-1": 3, "us-west-2": 1, "ap-southeast-2": 1}
GLOBAL_SOURCES = frozenset(("iam", "organizations", "route53"))
"""Services that log to us-east-1 only."""

SESSION_USES = 100
"""Records of a session on average; then another one, with a new key and creation date, takes its place."""
SESSIONS_MAX = 12

DUPLICATES = 0.005
DUPLICATE_DELAY_SECONDS_MAX = 1_800
"""A second trail's copy comes minutes after the first one, in the same file or a later one."""

REAL_SHAPES = Path(__file__).parents[3] / "shared/data/cloudtrail/stratus-red-team.ndjson.gz"

KEY_ORDER = """
eventVersion userIdentity eventTime eventSource eventName awsRegion sourceIPAddress userAgent errorCode errorMessage
requestParameters responseElements additionalEventData requestID eventID readOnly resources eventType managementEvent
recipientAccountId sharedEventID vpcEndpointId eventCategory tlsDetails sessionCredentialFromConsole
"""
"""Of a record as S3 has it; the shared real shapes are sorted by name."""

# --- what is called: the words of the company ------------------------------------------------------------------------

SERVICES = """
ec2 ec2 22 DescribeInstances DescribeNetworkInterfaces DescribeSecurityGroups DescribeSubnets DescribeVpcs
 DescribeVolumes DescribeTags DescribeInstanceStatus DescribeRegions DescribeImages DescribeSnapshots
 DescribeRouteTables DescribeAvailabilityZones DescribeInstanceTypes DescribeLaunchTemplateVersions DescribeAddresses
 DescribeKeyPairs DescribeNatGateways DescribeInstanceAttribute CreateTags CreateNetworkInterface AttachVolume
 DetachVolume CreateVolume RunInstances TerminateInstances StartInstances StopInstances CreateSnapshot DeleteSnapshot
 AuthorizeSecurityGroupIngress ModifyInstanceAttribute AssignPrivateIpAddresses GetPasswordData ModifySnapshotAttribute
s3 s3 18 GetObject PutObject HeadObject DeleteObject ListObjects CopyObject UploadPart CompleteMultipartUpload
 GetObjectTagging DeleteObjects GetBucketAcl GetBucketPolicy GetBucketLocation ListBuckets GetBucketEncryption
 GetBucketVersioning GetBucketPublicAccessBlock PutBucketPolicy PutBucketTagging GetBucketTagging GetBucketLogging
 GetBucketLifecycle CreateBucket DeleteBucket PutBucketLifecycle
kms kms 14 Decrypt GenerateDataKey Encrypt DescribeKey ListAliases ListKeys GetKeyPolicy CreateGrant RetireGrant
sts sts 8 AssumeRole GetCallerIdentity GetSessionToken
ssm ssm 6 DescribeInstanceInformation GetParameter GetParameters GetParametersByPath PutParameter SendCommand
 GetCommandInvocation UpdateInstanceInformation ListAssociations PutInventory DescribeParameters StartSession
logs logs 5 CreateLogStream CreateLogGroup DescribeLogGroups DescribeLogStreams PutRetentionPolicy FilterLogEvents
 StartQuery GetQueryResults ListTagsForResource
dynamodb dynamodb 4 GetItem PutItem Query UpdateItem BatchGetItem BatchWriteItem Scan DeleteItem DescribeTable
 ListTables DescribeTimeToLive
lambda lambda 4 Invoke GetFunction20150331v2 ListFunctions20150331 GetFunctionConfiguration20150331v2
 UpdateFunctionCode20150331v2 UpdateFunctionConfiguration20150331v2 CreateFunction20150331 GetPolicy20150331v2
 ListVersionsByFunction20150331 AddPermission20150331v2 ListTags20170331 PublishVersion20150331
iam iam 3 ListRoles GetRole ListRolePolicies ListAttachedRolePolicies GetRolePolicy GetPolicy GetPolicyVersion
 ListPolicies ListUsers GetUser ListAccessKeys GetAccountSummary CreateRole DeleteRole AttachRolePolicy TagRole
 DetachRolePolicy PutRolePolicy CreatePolicyVersion ListInstanceProfilesForRole CreateAccessKey CreateUser
ecs ecs 3 DescribeTasks ListTasks DescribeServices UpdateService RunTask StopTask ListClusters DescribeClusters
 RegisterTaskDefinition DescribeTaskDefinition SubmitTaskStateChange DescribeContainerInstances
sqs sqs 2 ReceiveMessage SendMessage DeleteMessage GetQueueAttributes GetQueueUrl ListQueues CreateQueue
secretsmanager secretsmanager 2 GetSecretValue DescribeSecret ListSecrets PutSecretValue RotateSecret
 BatchGetSecretValue
sns sns 1 Publish ListTopics GetTopicAttributes Subscribe CreateTopic ListSubscriptionsByTopic
eks eks 1 DescribeCluster ListClusters ListNodegroups DescribeNodegroup AccessKubernetesApi ListAddons DescribeAddon
ecr ecr 1 BatchGetImage GetDownloadUrlForLayer GetAuthorizationToken BatchCheckLayerAvailability DescribeImages PutImage
monitoring cloudwatch 1 PutMetricData GetMetricData DescribeAlarms GetMetricStatistics PutMetricAlarm ListMetrics
autoscaling autoscaling 1 DescribeAutoScalingGroups DescribeAutoScalingInstances SetDesiredCapacity DescribeTags
elasticloadbalancing elasticloadbalancing 1 DescribeLoadBalancers DescribeTargetHealth RegisterTargets DescribeListeners
rds rds 1 DescribeDBInstances DescribeDBClusters DescribeDBSnapshots CreateDBSnapshot ModifyDBSnapshotAttribute
cloudformation cloudformation 1 DescribeStacks ListStacks DescribeStackEvents CreateChangeSet UpdateStack GetTemplate
config config 1 PutEvaluations DescribeConfigRules GetResourceConfigHistory BatchGetResourceConfig SelectResourceConfig
cloudtrail cloudtrail 1 LookupEvents DescribeTrails GetTrailStatus GetEventSelectors StopLogging DeleteTrail
route53 route53 1 ListHostedZones ListResourceRecordSets ChangeResourceRecordSets GetHostedZone GetChange
glue glue 1 GetTable GetDatabases GetPartitions GetTables BatchCreatePartition StartJobRun GetJobRun UpdateTable
athena athena 1 StartQueryExecution GetQueryExecution GetQueryResults ListWorkGroups GetWorkGroup
organizations organizations 1 DescribeOrganization ListAccounts DescribeAccount ListParents ListRoots
sagemaker sagemaker 1 ListEndpoints DescribeEndpoint InvokeEndpoint ListTrainingJobs DescribeTrainingJob
guardduty guardduty 1 ListDetectors GetFindings ListFindings GetDetector
tagging tag 1 GetResources GetTagKeys GetTagValues
kinesis kinesis 1 GetRecords GetShardIterator PutRecords DescribeStreamSummary ListShards ListStreams PutRecord
events events 1 PutEvents ListRules DescribeRule PutRule PutTargets ListTargetsByRule
states states 1 StartExecution DescribeExecution ListExecutions DescribeStateMachine ListStateMachines
bedrock bedrock 1 InvokeModel ListFoundationModels GetFoundationModelAvailability
"""
"""A service a line: event source, IAM prefix, weight, event names from frequent to rare."""

RENAMED = {
    "lambda:Invoke": ("lambda:InvokeFunction",),
    "s3:CompleteMultipartUpload": ("s3:PutObject",),
    "s3:CopyObject": ("s3:GetObject", "s3:PutObject"),
    "s3:DeleteObjects": ("s3:DeleteObject",),
    "s3:GetBucketEncryption": ("s3:GetEncryptionConfiguration",),
    "s3:GetBucketLifecycle": ("s3:GetLifecycleConfiguration",),
    "s3:HeadObject": ("s3:GetObject",),
    "s3:ListBuckets": ("s3:ListAllMyBuckets",),
    "s3:ListObjects": ("s3:ListBucket",),
    "s3:PutBucketLifecycle": ("s3:PutLifecycleConfiguration",),
    "s3:UploadPart": ("s3:PutObject",),
}
"""Event names whose IAM actions are others (Service Authorization Reference), so that what is used is granted."""

NOUNS = (
    "app", "web", "api", "etl", "batch", "worker", "ingest", "billing", "search", "auth", "cart", "order",
    "stream", "lake", "ml", "infra", "ci", "deploy", "audit", "backup", "report", "notify", "edge", "core",
)  # fmt: skip
AGENTS = (
    "Boto3/1.34.131 md/Botocore#1.34.131 ua/2.0 os/linux#5.10.220-209.869.amzn2.x86_64 md/arch#x86_64 "
    "lang/python#3.11.9 "
    "md/pyimpl#CPython exec-env/AWS_Lambda_python3.11 cfg/retry-mode#legacy Botocore/1.34.131",
    "aws-sdk-nodejs/2.1692.0 linux/v20.19.4 exec-env/AWS_Lambda_nodejs20.x promise",
    "aws-sdk-go-v2/1.30.3 os/linux lang/go#1.22.5 md/GOOS#linux md/GOARCH#amd64 api/ec2#1.173.0 m/F,e",
    "APN/1.0 HashiCorp/1.0 Terraform/1.9.2 (+https://www.terraform.io) terraform-provider-aws/5.58.0 "
    "(+https://registry.terraform.io/providers/hashicorp/aws) aws-sdk-go-v2/1.30.1 os/linux lang/go#1.22.4",
    "[aws-cli/2.17.60 md/awscrt#0.21.2 ua/2.0 os/macos#23.6.0 md/arch#x86_64 lang/python#3.12.6 md/pyimpl#CPython "
    "cfg/retry-mode#standard md/installer#exe md/prompt#off md/command#s3api.copy-object]",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/134.0.0.0 Safari/537.36",
    "aws-sdk-java/2.25.11 Linux/5.10.220 OpenJDK_64-Bit_Server_VM/21.0.3 vendor/Amazon.com_Inc. io/sync http/Apache",
    "kubernetes/v1.29.6 (linux/amd64) kubernetes/$Format cloud-provider-aws",
)
ERRORS = (
    ("AccessDenied", 8, "User: <caller_arn> is not authorized to perform: <prefix>:<name> on resource: <resource_arn> "
     "because no identity-based policy allows the <prefix>:<name> action"),
    ("AccessDeniedException", 6, "User: <caller_arn> is not authorized to perform: <prefix>:<name>"),
    ("Client.UnauthorizedOperation", 6, "You are not authorized to perform this operation. Encoded authorization "
     "failure message: <base64_390>"),
    ("ResourceNotFoundException", 5, "The requested resource does not exist."),
    ("ThrottlingException", 5, "Rate exceeded"),
    ("Client.RequestLimitExceeded", 4, "Request limit exceeded."),
    ("Client.DryRunOperation", 1, "Request would have succeeded, but DryRun flag is set."),
)  # fmt: skip
"""errorCode, weight, errorMessage. The first three are refusals."""
DENIED = frozenset(("AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation", "UnauthorizedOperation"))
ERROR_SHARE = 0.035

# --- what a record looks like ----------------------------------------------------------------------------------------

RECORD = (
    '{"eventVersion":"<version>","userIdentity":<caller>,"eventTime":"<time>","eventSource":"<source>.amazonaws.com",'
    '"eventName":"<name>","awsRegion":"<region>","sourceIPAddress":"<address>","userAgent":"<agent>"<error>,'
    '"requestParameters":PARAMETERS,"responseElements":RESPONSE,ADDITIONAL"requestID":"<uuid>","eventID":"<event_id>",'
    '"readOnly":READ_ONLY,RESOURCES"eventType":"AwsApiCall","managementEvent":MANAGEMENT,'
    '"recipientAccountId":"<account>",<shared><endpoint>"eventCategory":"CATEGORY"<tls>}'
)
"""Words in angle brackets are drawn for each record (Fields), words in capitals come from the event's Shape."""


class Shape(NamedTuple):
    """JSON texts with words in angle brackets. `pattern` is matched against `source:EventName`; the first match
    holds."""

    pattern: str
    parameters: tuple[str, ...]
    response: str = "null"
    additional: str = ""
    resources: str = ""
    data_event: bool = False


S3_ADDITIONAL = (
    '{"SignatureVersion":"SigV4","CipherSuite":"TLS_AES_128_GCM_SHA256","bytesTransferredIn":0,"AuthenticationMethod":'
    '"AuthHeader","x-amz-id-2":"<base64_56>","bytesTransferredOut":<number>}'
)
S3_BUCKET = '{"accountId":"<account>","type":"AWS::S3::Bucket","ARN":"arn:aws:s3:::<bucket>"}'
S3_OBJECT = '[{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::<bucket>/<object_key>"},' + S3_BUCKET + "]"
S3_PARAMETERS = '"bucketName":"<bucket>","Host":"<bucket>.s3.<region>.amazonaws.com"'
KMS_KEY = '[{"accountId":"<account>","type":"AWS::KMS::Key","ARN":"<key_arn>"}]'
KMS_CONTEXT = (
    '"encryptionContext":{"aws:lambda:FunctionArn":"<function_arn>"}',
    '"encryptionContext":{"aws:s3:arn":"arn:aws:s3:::<bucket>"}',
    '"encryptionContext":{"PARAMETER_ARN":"arn:aws:ssm:<region>:<account>:parameter/<noun>/db"}',
)
ASSUME_ROLE_RESPONSE = (
    '{"credentials":{"accessKeyId":"ASIA<base32_16>","sessionToken":"<base64_360>","expiration":"Oct 8, 2026,'
    ' 4:15:32 PM"},'
    '"assumedRoleUser":{"assumedRoleId":"<target_id>:<session>","arn":"arn:aws:sts::<account>:assumed-role/'
    '<target_name>/<session>"}}'
)
RUN_PARAMETERS = (
    '{"instancesSet":{"items":[{"imageId":"ami-<hex_17>","minCount":1,"maxCount":1}]},"instanceType":"m6i.large",'
    '"blockDeviceMapping":{},"monitoring":{"enabled":false},"disableApiTermination":false,"clientToken":"<uuid>",'
    '"iamInstanceProfile":{"arn":"arn:aws:iam::<account>:instance-profile/<noun>-node"},"launchTemplate":'
    '{"launchTemplateId":"lt-<hex_17>","version":"12"},"tagSpecificationSet":{"items":[{"resourceType":"instance",'
    '"tags":[{"key":"eks:nodegroup-name","value":"<noun>"},{"key":"Name","value":"<role_name>"}]}]}}'
)
RUN_RESPONSE = (
    '{"requestId":"<uuid>","reservationId":"r-<hex_17>","ownerId":"<account>","groupSet":{},"instancesSet":{"items":[{'
    '"instanceId":"i-<hex_17>","imageId":"ami-<hex_17>","currentState":{"code":0,"name":"pending"},"privateDnsName":'
    '"ip-10-0-1-2.<region>.compute.internal","amiLaunchIndex":0,"productCodes":{},"instanceType":"m6i.large",'
    '"launchTime":<milliseconds>,"placement":{"availabilityZone":"<region>a","tenancy":"default"},'
    '"monitoring":{"state":'
    '"pending"},"subnetId":"subnet-<hex_17>","vpcId":"vpc-<hex_17>","privateIpAddress":"10.0.1.2",'
    '"stateReason":{"code":'
    '"pending","message":"pending"},"architecture":"x86_64","rootDeviceType":"ebs","rootDeviceName":"/dev/xvda",'
    '"blockDeviceMapping":{},"virtualizationType":"hvm","hypervisor":"xen","tagSet":{"items":[{"key":"Name","value":'
    '"<role_name>"},{"key":"aws:autoscaling:groupName","value":"eks-<uuid>"}]},"groupSet":{"items":[{"groupId":'
    '"sg-<hex_17>","groupName":"eks-node"}]},"iamInstanceProfile":{"arn":"arn:aws:iam::<account>:instance-profile/'
    '<noun>-node","id":"AIPA<base32_17>"},"networkInterfaceSet":{"items":[{"networkInterfaceId":'
    '"eni-<hex_17>","subnetId":'
    '"subnet-<hex_17>","vpcId":"vpc-<hex_17>","ownerId":"<account>","status":"in-use","macAddress":"02:aa:bb:cc:dd:ee",'
    '"privateIpAddress":"10.0.1.2","sourceDestCheck":true,"groupSet":{"items":[{"groupId":"sg-<hex_17>","groupName":'
    '"eks-node"}]},"attachment":{"attachmentId":"eni-attach-<hex_17>","deviceIndex":0,"status":"attaching",'
    '"deleteOnTermination":true},"privateIpAddressesSet":{"item":[{"privateIpAddress":"10.0.1.2","primary":true}]}}]},'
    '"ebsOptimized":false,"enaSupport":true}]}}'
)
FUNCTION_RESPONSE = (
    '{"architectures":["x86_64"],"codeSha256":"<base64_32>","codeSize":1018083,"description":"<text>","environment":{},'
    '"ephemeralStorage":{"size":512},"functionArn":"<function_arn>","handler":"lambda.handler","lastModified":'
    '"2026-09-11T09:29:33.375+0000","loggingConfig":{"logFormat":"Text","logGroup":"/aws/lambda/<noun>"},'
    '"memorySize":128,'
    '"packageType":"Zip","revisionId":"<uuid>","role":"<target_arn>","runtime":"nodejs20.x","snapStart":'
    '{"applyOn":"None",'
    '"optimizationStatus":"Off"},"state":"Pending","stateReason":"The function is being created.","stateReasonCode":'
    '"Creating","timeout":3,"tracingConfig":{"mode":"PassThrough"},"version":"$LATEST"}'
)
TRUST = (
    r'"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":{\"Service\":'
    r'\"ec2.amazonaws.com\"}}]}"'
)

SHAPES = (
    Shape("ec2:Describe", (
        '{"instancesSet":{},"filterSet":{"items":[{"name":"vpc-id","valueSet":{"items":[{"value":"vpc-<hex_17>"}]}}]}}',
        '{"instancesSet":{"items":[<instances>]},"filterSet":{}}',
        r'{"maxResults":1000,"nextToken":"<base64_60>\u003d\u003d"}')),
    Shape("ec2:RunInstances", (RUN_PARAMETERS,), RUN_RESPONSE),
    Shape("ec2:", (
        '{"networkInterfaceId":"eni-<hex_17>","instanceId":"i-<hex_17>","description":"<text>","force":false,'
        '"tagSet":{"items":[{"key":"owner","value":"<noun>"}]}}',
        '{"instancesSet":{"items":[<instances>]},"force":false}'),
        '{"requestId":"<uuid>","_return":true}'),
    Shape("s3:ListObjects", (
        '{"list-type":"2",' + S3_PARAMETERS + ',"encoding-type":"url","prefix":"<noun>/","delimiter":"/"}',),
        additional=S3_ADDITIONAL, data_event=True,
        resources='[{"type":"AWS::S3::Object","ARNPrefix":"arn:aws:s3:::<bucket>/"},' + S3_BUCKET + "]"),
    Shape("s3:(PutObject|UploadPart)$", ("{" + S3_PARAMETERS + ',"key":"<object_key>"}',),
        '{"x-amz-server-side-encryption":"aws:kms","x-amz-server-side-encryption-aws-kms-key-id":"<key_arn>",'
        '"x-amz-server-side-encryption-bucket-key-enabled":"true"}',
        additional=S3_ADDITIONAL, data_event=True, resources=S3_OBJECT),
    Shape("s3:CopyObject", (
        "{" + S3_PARAMETERS + ',"key":"<object_key>","x-amz-copy-source":"<bucket>/<noun>/<hex_16>.parquet"}',),
        '{"x-amz-server-side-encryption":"AES256"}', S3_ADDITIONAL, S3_OBJECT, True),
    Shape("s3:(.*Object|Complete)", ("{" + S3_PARAMETERS + ',"key":"<object_key>"}',),
        additional=S3_ADDITIONAL, data_event=True, resources=S3_OBJECT),
    Shape("s3:PutBucketPolicy", (
        '{"bucketPolicy":{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":'
        '"logging.s3.amazonaws.com"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::<bucket>/*"}]},'
        + S3_PARAMETERS + ',"policy":""}',), additional=S3_ADDITIONAL, resources="[" + S3_BUCKET + "]"),
    Shape("s3:", ("{" + S3_PARAMETERS + ',"acl":""}', "{" + S3_PARAMETERS + ',"location":""}'),
        additional=S3_ADDITIONAL, resources="[" + S3_BUCKET + "]"),
    Shape("kms:List", ('{"limit":1000}', "null")),
    Shape("kms:Decrypt", tuple('{"encryptionAlgorithm":"SYMMETRIC_DEFAULT",' + c + "}" for c in KMS_CONTEXT),
        additional='{"keyMaterialId":"<hex_64>"}', resources=KMS_KEY),
    Shape("kms:(Generate|Encrypt)", tuple('{"keyId":"<key_arn>",' + c + ',"keySpec":"AES_256"}' for c in KMS_CONTEXT),
        additional='{"keyMaterialId":"<hex_64>"}', resources=KMS_KEY),
    Shape("kms:", ('{"keyId":"<key_arn>"}',), resources=KMS_KEY),
    Shape("sts:AssumeRole", ('{"roleArn":"<target_arn>","roleSessionName":"<session>","durationSeconds":3600}',),
        ASSUME_ROLE_RESPONSE, resources='[{"accountId":"<account>","type":"AWS::IAM::Role","ARN":"<target_arn>"}]'),
    Shape("sts:", ("null",)),
    Shape("lambda:Invoke", ('{"functionName":"<function_arn>","invocationType":"RequestResponse"}',),
        additional='{"customerEniId":"","functionVersion":"<function_arn>:$LATEST"}', data_event=True,
        resources='[{"accountId":"<account>","type":"AWS::Lambda::Function","ARN":"<function_arn>"}]'),
    Shape("lambda:CreateFunction", (
        '{"functionName":"<noun>-<noun>","runtime":"nodejs20.x","role":"<target_arn>","handler":"index.handler","code":'
        '{"s3Bucket":"<bucket>","s3Key":"index.zip"},"description":"<text>","timeout":3,"memorySize":128,'
        '"publish":false,'
        '"packageType":"Zip","environment":{},"tags":{"team":"<noun>"}}',), FUNCTION_RESPONSE),
    Shape("lambda:Update", ('{"functionName":"<function_arn>","s3Bucket":"<bucket>","publish":true,"dryRun":false}',),
        FUNCTION_RESPONSE),
    Shape("lambda:(Get|List)", ('{"functionName":"<function_arn>"}', '{"maxItems":50}')),
    Shape("logs:", ('{"logGroupName":"/aws/lambda/<role_name>","logStreamName":"2026/10/08/[$LATEST]<hex_32>"}',)),
    Shape("dynamodb:(Describe|List)", ('{"tableName":"<table>"}',)),
    Shape("dynamodb:", ('{"tableName":"<table>","key":{"pk":"<noun>#<hex_8>"},"consistentRead":false}',),
        data_event=True,
        resources='[{"accountId":"<account>","type":"AWS::DynamoDB::Table",'
        '"ARN":"arn:aws:dynamodb:<region>:<account>:table/<table>"}]'),
    Shape("iam:CreateRole", (
        '{"path":"/","roleName":"<noun>-<hex_8>","assumeRolePolicyDocument":' + TRUST + ',"maxSessionDuration":3600,'
        '"description":"<text>"}',),
        '{"role":{"path":"/","roleName":"<noun>-<hex_8>","roleId":"AROA<base32_17>","arn":"<target_arn>","createDate":'
        '"Oct 10, 2026 11:54:39 AM","assumeRolePolicyDocument":"%7B%22Version%22%3A%222012-10-17%22%7D"}}'),
    Shape("iam:(Put|CreatePolicy)", (
        '{"roleName":"<target_name>","policyName":"<noun>","policyDocument":' + TRUST + "}",)),
    Shape("iam:", ('{"roleName":"<target_name>"}', '{"maxItems":1000}', "null")),
    Shape("ssm:SendCommand", (
        '{"documentName":"AWS-RunShellScript","instanceIds":["i-<hex_17>","i-<hex_17>"],"comment":"<text>",'
        '"parameters":'
        '"HIDDEN_DUE_TO_SECURITY_REASONS","timeoutSeconds":600,"interactive":false}',),
        '{"command":{"commandId":"<uuid>","documentName":"AWS-RunShellScript","status":"Pending","targetCount":2}}'),
    Shape("ssm:PutParameter", (
        '{"name":"/<noun>/<noun>","value":"HIDDEN_DUE_TO_SECURITY_REASONS","type":"SecureString","overwrite":true,'
        '"tags":[{"key":"team","value":"<noun>"}]}',), '{"version":7,"tier":"Standard"}'),
    Shape("secretsmanager:", ('{"secretId":"<resource_arn>"}',)),
    Shape("ecs:RunTask", (
        '{"cluster":"<resource_arn>","taskDefinition":"<noun>:12","launchType":"FARGATE","overrides":{"taskRoleArn":'
        '"<target_arn>","containerOverrides":[]},"startedBy":"<noun>"}',),
        '{"tasks":[{"taskArn":"<resource_arn>","lastStatus":"PROVISIONING","desiredStatus":"RUNNING"}],"failures":[]}'),
    Shape(".*:(Get|List|Describe|Batch|Query|Scan|Select|Lookup|Head)", (
        "null",
        '{"resourceArn":"<resource_arn>","maxResults":100}',
        '{"name":"<noun>-<hex_8>"}',
        '{"filters":[{"key":"InstanceIds","values":[<strings>]}],"nextToken":"<base64_90>"}')),
    Shape("", ('{"name":"<resource_arn>","description":"<text>","enabled":true}',),
        '{"requestId":"<uuid>","arn":"<resource_arn>","status":"ACTIVE","tags":{"team":"<noun>","note":"<text>"}}'),
)  # fmt: skip

SERVICE_EVENT = (
    '{"eventVersion":"1.08","userIdentity":{"accountId":"<account>","invokedBy":"AWS Internal"},"eventTime":"<time>",'
    '"eventSource":"kms.amazonaws.com","eventName":"RotateKey","awsRegion":"<region>","sourceIPAddress":"AWS Internal",'
    '"userAgent":"AWS Internal","requestParameters":null,"responseElements":null,"eventID":"<event_id>",'
    '"readOnly":false,'
    '"resources":[{"accountId":"<account>","type":"AWS::KMS::Key","ARN":"<key_arn>"}],"eventType":"AwsServiceEvent",'
    '"managementEvent":true,"recipientAccountId":"<account>","serviceEventDetails":{"keyId":"<uuid>"},'
    '"eventCategory":"Management"}'
)
CONSOLE_LOGIN = (
    '{"eventVersion":"1.08","userIdentity":<caller>,"eventTime":"<time>","eventSource":"signin.amazonaws.com",'
    '"eventName":"ConsoleLogin","awsRegion":"<region>","sourceIPAddress":"<address>","userAgent":"<agent>",'
    '"requestParameters":null,"responseElements":{"ConsoleLogin":"Success"},"additionalEventData":{"LoginTo":'
    '"https://console.aws.amazon.com/console/home","MobileVersion":"No","MFAUsed":"Yes"},"eventID":"<event_id>",'
    '"readOnly":false,"eventType":"AwsConsoleSignIn","managementEvent":true,"recipientAccountId":"<account>",'
    '"eventCategory":"Management"}'
)


class Other(NamedTuple):
    """A record whose caller is no principal of the inventory. `name_class` is the class that it ends in."""

    weight: int
    name_class: str
    event: str
    caller: str
    detail_type: str = "AWS API Call via CloudTrail"
    template: str = ""


OTHERS = (
    Other(60, "no_principal", "sts:AssumeRole", '{"type":"AWSService","invokedBy":"<via>"}'),
    Other(20, "no_principal", "sts:AssumeRoleWithWebIdentity",
        '{"type":"WebIdentityUser","principalId":"<provider_arn>:sts.amazonaws.com:system:serviceaccount:prod:<noun>",'
        '"userName":"system:serviceaccount:prod:<noun>","identityProvider":"<provider_arn>"}'),
    Other(4, "no_principal", "sts:AssumeRoleWithSAML",
        '{"type":"SAMLUser","principalId":"<target_id>:jane.doe@example.com","userName":"jane.doe@example.com",'
        '"identityProvider":"<target_id>"}'),
    Other(6, "no_principal", "s3:GetObject",
        '{"type":"AWSAccount","principalId":"<target_id>:reader","accountId":"111122223333"}'),
    Other(8, "no_principal", "s3:PutObject", '{"type":"AWSService","invokedBy":"<via>"}'),
    Other(1, "use", "s3:ListBuckets",
        '{"type":"Root","principalId":"<account>","arn":"arn:aws:iam::<account>:root","accountId":"<account>",'
        '"accessKeyId":"ASIA<base32_16>","sessionContext":{"attributes":{"creationDate":"<time>",'
        '"mfaAuthenticated":"true"}}}'),
    Other(8, "not_iam", "kms:RotateKey", "{}", "AWS Service Event via CloudTrail", SERVICE_EVENT),
    Other(1, "not_iam", "signin:ConsoleLogin", "<own>", "AWS Console Sign In via CloudTrail", CONSOLE_LOGIN),
)  # fmt: skip
OTHERS_SHARE = 0.06

READ_ONLY = ("Get", "List", "Describe", "Head", "Lookup", "Batch", "Scan", "Query", "Select", "Filter", "AssumeRole")
TLS = (
    ',"tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":'
    '"<source>.<region>.amazonaws.com"}'
)
TLS_FORMAT = re.sub(r"<([a-z]+)>", r"%(\1)s", TLS)
ERROR_WEIGHTS = [weight for _, weight, _ in ERRORS]
OTHER_WEIGHTS = [other.weight for other in OTHERS]
TEXTS = (
    "ok",
    "nightly run",
    r"Gr\u00fc\u00dfe, \"quoted\" \n second line",
    "Zürich → 東京 🚀",
    r"a\u003db\u0026c\u003cd\u003e",
)
CALLING_SERVICES = ("lambda", "s3", "secretsmanager", "ecs-tasks", "config", "states", "cloudformation", "dynamodb")


def compile_template(text: str) -> str:
    """Words in angle brackets -> a format string for a mapping."""
    return re.sub(r"<([a-z]\w*)>", r"%(\1)s", text.replace("%", "%%"))


def compile_record(source: str, name: str, shape: Shape, parameters: str, response: str) -> str:
    data_events = {
        "MANAGEMENT": str(not shape.data_event).lower(),
        "CATEGORY": "Data" if shape.data_event else "Management",
    }
    parts = data_events | {
        "PARAMETERS": parameters,
        "RESPONSE": response,
        "ADDITIONAL": f'"additionalEventData":{shape.additional},' if shape.additional else "",
        "READ_ONLY": str(name.startswith(READ_ONLY)).lower(),
        "RESOURCES": f'"resources":{shape.resources},' if shape.resources else "",
    }
    return compile_template(re.sub("|".join(parts), lambda found: parts[found[0]], RECORD))


class RealShape(NamedTuple):
    template: str
    denied: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A call that the company's principals make, with the templates of its records."""

    source: str
    name: str
    prefix: str
    weight: float
    actions: tuple[str, ...]
    succeeded: tuple[str, ...]
    failed: tuple[str, ...]
    real: tuple[RealShape, ...]


def build_event(source: str, name: str, prefix: str, weight: float, real: Sequence[RealShape] = ()) -> Event:
    subject = f"{source}:{name}"
    shape = next(shape for shape in SHAPES if re.match(shape.pattern, subject))
    own = f"{prefix}:{re.sub(r'[0-9]{8}(v[0-9])?$', '', name)}"
    succeeded = tuple(
        compile_record(source, name, shape, parameters, shape.response) for parameters in shape.parameters
    )
    failed = tuple(compile_record(source, name, shape, parameters, "null") for parameters in shape.parameters)
    return Event(source, name, prefix, weight, RENAMED.get(own, (own,)), succeeded, failed, tuple(real))


def read_real_shapes() -> dict[str, list[RealShape]]:
    """`source:EventName` -> its real records as templates; {} where the shared records are not to be had."""
    shapes: dict[str, list[RealShape]] = {}
    if not REAL_SHAPES.exists():
        return shapes
    drawn = {
        "userIdentity": "<caller>",
        "eventTime": "<time>",
        "awsRegion": "<region>",
        "requestID": "<uuid>",
        "eventID": "<event_id>",
        "recipientAccountId": "<account>",
    }
    order = KEY_ORDER.split()
    with gzip.open(REAL_SHAPES) as lines:
        for line in lines:
            record = json.loads(line)
            if re.search(rb"<[a-z]\w*>", line) or record["eventType"] != "AwsApiCall":
                continue
            ordered = {key: record[key] for key in sorted(record, key=order.index)} | drawn
            text = orjson.dumps(ordered).decode().replace('"<caller>"', "<caller>")
            subject = f"{record['eventSource'].partition('.')[0]}:{record['eventName']}"
            shape = RealShape(compile_template(text), record.get("errorCode") in DENIED)
            shapes.setdefault(subject, []).append(shape)
    return shapes


def read_services() -> list[Event]:
    real = read_real_shapes()
    events = []
    for line in SERVICES.replace("\n ", " ").strip().splitlines():
        source, prefix, weight, *names = line.split()
        shares = [1 / (place + 3) for place in range(len(names))]
        for name, share in zip(names, shares, strict=True):
            found = real.get(f"{source}:{name}", ())
            events.append(build_event(source, name, prefix, int(weight) * share / sum(shares), found))
    return events


# --- who calls: accounts and principals ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """The arguments. `out` is the corpus' folder."""

    out: Path
    seed: int
    records: int
    principals: int


@dataclass(frozen=True, slots=True)
class Principal:
    """`kind` is role, user, irsa, sso or service_linked; weights are cumulative. A role has up to `session_slots`
    sessions at a time, each of them replaced after `session_seconds`; `calling` are the services that act
    for it."""

    account_id: str
    kind: str
    name: str
    path: str
    unique_id: str
    arn: str
    agent: str
    address: str
    buckets: tuple[str, ...]
    key_id: str
    calling: tuple[str, ...]
    events: tuple[Event, ...]
    event_weights: tuple[float, ...]
    session_slots: int
    session_seconds: int


@dataclass(frozen=True, slots=True)
class Account:
    account_id: str
    principals: tuple[Principal, ...]
    principal_weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Company:
    accounts: tuple[Account, ...]
    account_weights: tuple[float, ...]
    others: tuple[tuple[Other, str, str, tuple[str, ...]], ...]


SERVICE_LINKED = {5: ("config", "Config"), 23: ("autoscaling", "AutoScaling"), 61: ("ecs", "ECS")}
"""Place among an account's principals, from busy to quiet: service, name after AWSServiceRoleFor."""


def weigh(count: int, exponent: float) -> tuple[float, ...]:
    """Zipf's weights, cumulative up to 1."""
    weights = [1 / (place + 1) ** exponent for place in range(count)]
    total = sum(weights)
    return (*(weight / total for weight in accumulate(weights[:-1])), 1.0)


def draw_hex(random: Random, size: int) -> str:
    return f"{random.getrandbits(4 * size):0{size}x}"


def draw_base32(random: Random, size: int) -> str:
    return "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=size))


def draw_base64(random: Random, size: int) -> str:
    return b64encode(random.randbytes(size)).decode()


def draw_uuid(random: Random) -> str:
    digits = draw_hex(random, 32)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def draw_address(random: Random) -> str:
    return f"{random.randint(3, 223)}.{random.randrange(256)}.{random.randrange(256)}.{random.randint(1, 254)}"


def draw_events(random: Random, events: Sequence[Event]) -> tuple[Event, ...]:
    """From a few services, most principals use a dozen kinds of call, some a hundred."""
    count = min(len(events), int(random.lognormvariate(2.6, 0.8)) + 2)
    weights: dict[str, float] = {}
    for event in events:
        weights[event.source] = weights.get(event.source, 0) + event.weight
    sources: set[str] = set()
    while len(sources) < min(len(weights), 2 + count // 6):
        sources.add(random.choices(list(weights), list(weights.values()))[0])
    known = [event for event in events if event.source in sources]
    return tuple(dict.fromkeys(random.choices(known, [event.weight for event in known], k=count)))


def name_principal(random: Random, place: int) -> tuple[str, str, str]:
    """kind, path, name of the principal at a place of an account."""
    if place in SERVICE_LINKED:
        service, name = SERVICE_LINKED[place]
        return "service_linked", f"/aws-service-role/{service}.amazonaws.com/", f"AWSServiceRoleFor{name}"
    draw = random.random()
    if draw < 0.04:
        return "user", "/", f"svc-{random.choice(NOUNS)}-{draw_hex(random, 4)}"
    if draw < 0.055:
        level = random.choice(("AdministratorAccess", "ReadOnlyAccess", "PowerUserAccess"))
        return "sso", "/aws-reserved/sso.amazonaws.com/eu-west-1/", f"AWSReservedSSO_{level}_{draw_hex(random, 16)}"
    suffix = random.choice(("role", "exec-role", "lambda-role", "task-role", "node-role"))
    stage = random.choice(("prod", "stg", "dev"))
    name = f"{random.choice(NOUNS)}-{random.choice(NOUNS)}-{stage}-{suffix}-{draw_hex(random, 6)}"
    path = random.choice(("/", "/", "/", "/service-role/", "/team/platform/"))
    return ("irsa" if draw < 0.075 else "role"), path, name


def build_principal(random: Random, account_id: str, place: int, events: Sequence[Event], expected: float) -> Principal:
    """`expected` records will be its own."""
    kind, path, name = name_principal(random, place)
    user = kind == "user"
    used = draw_events(random, [event for event in events if event.prefix == "config" or kind != "service_linked"])
    slots = 1 if user else min(SESSIONS_MAX, 1 + int(expected / SESSION_USES * 2))
    return Principal(
        account_id=account_id,
        kind=kind,
        name=name,
        path=path,
        unique_id=("AIDA" if user else "AROA") + draw_base32(random, 17),
        arn=f"arn:aws:iam::{account_id}:{'user' if user else 'role'}{path}{name}",
        agent=random.choice(AGENTS),
        address=draw_address(random),
        buckets=tuple(f"{random.choice(NOUNS)}-{random.choice(NOUNS)}-{account_id}" for _ in range(3)),
        key_id=draw_uuid(random),
        calling=tuple(f"{service}.amazonaws.com" for service in random.sample(CALLING_SERVICES, k=2)),
        events=used,
        event_weights=weigh(len(used), 1.15),
        session_slots=slots,
        session_seconds=int(SPAN_SECONDS * slots * SESSION_USES / expected) + 1,
    )


def build_company(plan: Plan) -> Company:
    random = Random(f"{plan.seed}:company")
    events = read_services()
    account_weights = weigh(ACCOUNTS, 0.9)
    accounts = []
    for place in range(ACCOUNTS):
        account_id = f"{random.randrange(10**11, 10**12)}"
        count = (plan.principals + ACCOUNTS - 1 - place) // ACCOUNTS
        weights = weigh(count, 1.1)
        share = account_weights[place] - (account_weights[place - 1] if place else 0)
        principals = []
        for number in range(count):
            expected = plan.records * share * (weights[number] - (weights[number - 1] if number else 0))
            principals.append(build_principal(random, account_id, number, events, expected))
        accounts.append(Account(account_id, tuple(principals), weights))
    others = []
    for other in OTHERS:
        source, _, name = other.event.partition(":")
        templates = (
            (compile_template(other.template),) if other.template else build_event(source, name, source, 1).succeeded
        )
        others.append((other, source, compile_template(other.caller), templates))
    return Company(tuple(accounts), account_weights, tuple(others))


# --- what they may do: the inventory ---------------------------------------------------------------------------------

AWS_POLICIES: dict[str, list[dict[str, Any]]] = {
    "AdministratorAccess": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    "PowerUserAccess": [
        {"Effect": "Allow", "NotAction": ["iam:*", "organizations:*", "account:*"], "Resource": "*"},
        {"Effect": "Allow", "Action": ["iam:CreateServiceLinkedRole", "iam:ListRoles"], "Resource": "*"},
    ],
}
COMPANY_POLICIES: dict[str, list[dict[str, Any]]] = {
    "baseline": [
        {"Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": "*"},
        {"Effect": "Allow", "Action": "cloudwatch:Put*", "Resource": "*"},
    ],
    "read-operations": [
        {
            "Effect": "Allow",
            "Action": ["ec2:Describe*", "s3:Get*", "s3:List*", "iam:Get*", "iam:List*", "rds:Describe*", "ecs:List*"],
            "Resource": "*",
        }
    ],
    "guardrails": [
        {"Effect": "Deny", "Action": ["cloudtrail:StopLogging", "cloudtrail:DeleteTrail"], "Resource": "*"},
        {
            "Effect": "Deny",
            "Action": "*",
            "Resource": "*",
            "Condition": {"StringNotEquals": {"aws:RequestedRegion": [*REGIONS]}},
        },
    ],
    "boundary-developers": [
        {"Effect": "Allow", "NotAction": ["organizations:*", "account:*"], "Resource": "*"},
        {"Effect": "Deny", "Action": ["iam:CreateUser", "iam:CreateAccessKey"], "Resource": "*"},
    ],
}


def draw_patterns(random: Random, prefix: str, used: Iterable[str], known: Sequence[str]) -> list[str]:
    """Action patterns of one service that cover nearly all that is used, and more: as broad as people write them."""
    breadth = random.random()
    if breadth < 0.15:
        return [f"{prefix}:*"]
    explicit = [action for action in used if random.random() > 0.03]
    if breadth < 0.5:
        families = [f"{prefix}:{verb}*" for verb in ("Get", "List", "Describe")]
        return families + [action for action in explicit if not action.startswith(tuple(f[:-1] for f in families))]
    return list(dict.fromkeys(explicit + random.sample(known, k=min(len(known), random.randint(0, 6)))))


def draw_statements(random: Random, principal: Principal, known: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One Allow for each service that the principal uses, and for one to three that it does not."""
    used: dict[str, list[str]] = {}
    for event in principal.events:
        used.setdefault(event.prefix, []).extend(event.actions)
    unused = random.sample(
        [prefix for prefix in known if prefix not in used], k=min(random.randint(1, 3), len(known) - len(used))
    )
    statements = []
    for prefix in chain(used, unused):
        patterns = draw_patterns(random, prefix, used.get(prefix, ()), known[prefix])
        if not patterns:
            continue
        statement: dict[str, Any] = {
            "Sid": prefix.title().replace("-", ""),
            "Effect": "Allow",
            "Action": patterns,
            "Resource": "*",
        }
        if random.random() < 0.25:
            statement["Resource"] = [f"arn:aws:{prefix}:*:{principal.account_id}:{random.choice(NOUNS)}*"]
        if random.random() < 0.06:
            statement["Condition"] = {"StringEquals": {"aws:RequestedRegion": "us-east-1"}}
        statements.append(statement)
    return statements


def describe_policy(random: Random, arn: str, statements: list[dict[str, Any]]) -> dict[str, Any]:
    path, _, name = arn.rpartition("/")
    version = {
        "Document": {"Version": "2012-10-17", "Statement": statements},
        "VersionId": "v1",
        "IsDefaultVersion": True,
        "CreateDate": draw_date(random),
    }
    return {
        "PolicyName": name,
        "PolicyId": "ANPA" + draw_base32(random, 17),
        "Arn": arn,
        "Path": path[path.index("policy") + 6 :] + "/",
        "DefaultVersionId": "v1",
        "AttachmentCount": 1,
        "PermissionsBoundaryUsageCount": 0,
        "IsAttachable": True,
        "CreateDate": version["CreateDate"],
        "UpdateDate": version["CreateDate"],
        "PolicyVersionList": [version],
    }


def draw_date(random: Random) -> str:
    """Most things are a year or two old; one in thirty was made in the weeks before the log."""
    days = random.uniform(1, 30) if random.random() < 0.03 else random.uniform(120, 900)
    return datetime.fromtimestamp(START_SECONDS - int(days * 86_400), UTC).isoformat()


def describe_principal(
    random: Random, principal: Principal, known: dict[str, list[str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A UserDetailList or RoleDetailList element, and the documents of the policies that are its own, by ARN."""
    home = f"arn:aws:iam::{principal.account_id}:policy/"
    statements = draw_statements(random, principal, known)
    inline = len(statements) // 2
    own = {f"{home}{principal.name}-access": statements[inline:]}
    attached = [f"{home}{name}" for name in ("baseline", "read-operations", "guardrails") if random.random() < 0.2]
    if "AdministratorAccess" in principal.name or random.random() < 0.01:
        attached.append("arn:aws:iam::aws:policy/AdministratorAccess")
    elif "PowerUserAccess" in principal.name:
        attached.append("arn:aws:iam::aws:policy/PowerUserAccess")
    noun = "User" if principal.kind == "user" else "Role"
    details: dict[str, Any] = {
        "Path": principal.path,
        f"{noun}Name": principal.name,
        f"{noun}Id": principal.unique_id,
        "Arn": principal.arn,
        "CreateDate": draw_date(random),
        f"{noun}PolicyList": [
            {"PolicyName": "inline", "PolicyDocument": {"Version": "2012-10-17", "Statement": statements[:inline]}}
        ],
        "AttachedManagedPolicies": [
            {"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in (*own, *attached)
        ],
        "Tags": [{"Key": "team", "Value": random.choice(NOUNS)}],
    }
    if noun == "User":
        details["GroupList"] = ["operators"] if random.random() < 0.5 else []
    else:
        trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        details["AssumeRolePolicyDocument"] = {"Version": "2012-10-17", "Statement": [trust]}
        details["InstanceProfileList"] = []
    if random.random() < 0.08:
        details["PermissionsBoundary"] = {
            "PermissionsBoundaryType": "Policy",
            "PermissionsBoundaryArn": f"{home}boundary-developers",
        }
    return details, own


def build_inventory(plan: Plan, account: Account) -> dict[str, Any]:
    """What `aws iam get-account-authorization-details` prints for one account."""
    random = Random(f"{plan.seed}:inventory:{account.account_id}")
    known: dict[str, list[str]] = {}
    for event in read_services():
        known.setdefault(event.prefix, []).extend(event.actions)
    home = f"arn:aws:iam::{account.account_id}:policy/"
    documents: dict[str, list[dict[str, Any]]] = {
        f"arn:aws:iam::aws:policy/{name}": statements for name, statements in AWS_POLICIES.items()
    }
    documents |= {f"{home}{name}": statements for name, statements in COMPANY_POLICIES.items()}
    users: list[dict[str, Any]] = []
    roles: list[dict[str, Any]] = []
    for principal in account.principals:
        details, own = describe_principal(random, principal, known)
        (users if principal.kind == "user" else roles).append(details)
        documents |= own
    group = {
        "Path": "/",
        "GroupName": "operators",
        "GroupId": "AGPA" + draw_base32(random, 17),
        "Arn": f"arn:aws:iam::{account.account_id}:group/operators",
        "CreateDate": draw_date(random),
        "GroupPolicyList": [],
        "AttachedManagedPolicies": [{"PolicyName": "read-operations", "PolicyArn": f"{home}read-operations"}],
    }
    policies = [describe_policy(random, arn, statements) for arn, statements in documents.items()]
    return {"UserDetailList": users, "GroupDetailList": [group], "RoleDetailList": roles, "Policies": policies}


# --- what they did: the log ------------------------------------------------------------------------------------------


def format_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_caller(principal: Principal, slot: int, epoch: int) -> dict[str, Any]:
    """userIdentity of one session of a role, or of a user. It depends on nothing else, so all segments agree on it."""
    random = Random(f"{principal.unique_id}:{slot}:{epoch}")
    account_id, name = principal.account_id, principal.name
    if principal.kind == "user":
        caller = {"type": "IAMUser", "principalId": principal.unique_id, "arn": principal.arn, "accountId": account_id}
        return caller | {"accessKeyId": "AKIA" + draw_base32(random, 16), "userName": name}
    session = draw_session_name(random, principal)
    context: dict[str, Any] = {
        "sessionIssuer": {
            "type": "Role",
            "principalId": principal.unique_id,
            "arn": principal.arn,
            "accountId": account_id,
            "userName": name,
        }
    }
    if principal.kind == "irsa":
        provider = f"arn:aws:iam::{account_id}:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/{principal.key_id}"
        context["webIdFederationData"] = {"federatedProvider": provider, "attributes": {}}
    begun = START_SECONDS + epoch * principal.session_seconds - random.randrange(3600)
    context["attributes"] = {
        "creationDate": format_time(begun),
        "mfaAuthenticated": str(principal.kind == "sso").lower(),
    }
    if session.startswith("i-"):
        context["ec2RoleDelivery"] = "2.0"
    return {
        "type": "AssumedRole",
        "principalId": f"{principal.unique_id}:{session}",
        "arn": f"arn:aws:sts::{account_id}:assumed-role/{name}/{session}",
        "accountId": account_id,
        "accessKeyId": "ASIA" + draw_base32(random, 16),
        "sessionContext": context,
    }


def draw_session_name(random: Random, principal: Principal) -> str:
    if principal.kind == "service_linked":
        return f"{principal.name.removeprefix('AWSServiceRoleFor')}-{random.randrange(10**6)}"
    if principal.kind == "sso":
        return f"{random.choice(('jane', 'jose', 'li', 'ana'))}.{random.choice(NOUNS)}@example.com"
    if "lambda" in principal.name:
        return principal.name[:40].replace("lambda-role", "function")
    if "node" in principal.name:
        return "i-" + draw_hex(random, 17)
    if "task" in principal.name:
        return draw_hex(random, 32)
    return random.choice(
        (
            "GitHubActions",
            f"botocore-session-{random.randrange(10**9, 2 * 10**9)}",
            f"aws-go-sdk-{random.getrandbits(60)}",
        )
    )


SIZED: dict[str, Callable[..., str]] = {"hex": draw_hex, "base32": draw_base32, "base64": draw_base64}
FRESH: dict[str, Callable[[Random], str]] = {
    "uuid": draw_uuid,
    "noun": lambda random: random.choice(NOUNS),
    "text": lambda random: random.choice(TEXTS),
    "number": lambda random: str(random.randrange(10**6)),
    "instances": lambda random: ",".join(
        f'{{"instanceId":"i-{draw_hex(random, 17)}"}}' for _ in range(random.randint(1, 8))
    ),
    "strings": lambda random: ",".join(f'"i-{draw_hex(random, 17)}"' for _ in range(random.randint(1, 8))),
}
"""Words that are drawn anew each time that they occur; with SIZED (hex_17: 17 digits)."""
KEPT = {
    "event_id": "<uuid>",
    "function_arn": "arn:aws:lambda:<region>:<account>:function:<noun>-<noun>",
    "key_arn": "arn:aws:kms:<region>:<account>:key/<key_id>",
    "object_key": "<noun>/year=2026/month=10/day=08/part-<hex_5>-<uuid>.snappy.parquet",
    "provider_arn": "arn:aws:iam::<account>:oidc-provider/oidc.eks.<region>.amazonaws.com/id/<account>",
    "resource_arn": "arn:aws:<prefix>:<region>:<account>:<noun>/<noun>-<hex_8>",
    "session": "sess-<hex_8>",
    "table": "<noun>-<noun>",
}
"""Words that are drawn once a record."""
KEPT_FORMATS = {word: compile_template(text) for word, text in KEPT.items()}


class Fields(dict[str, Any]):
    """The words of one record, drawn as its template asks for them. Raises KeyError for a word that nobody knows."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __missing__(self, word: str) -> str:
        draw = FRESH.get(word)
        if draw is None and word in KEPT_FORMATS:
            self[word] = value = KEPT_FORMATS[word] % self
            return value
        if draw is None:
            kind, _, size = word.partition("_")
            draw = FRESH[word] = partial(SIZED[kind], size=int(size))
        return draw(self._random)


class Line(NamedTuple):
    """One record as it is written."""

    text: bytes
    source: str
    second: int
    detail_type: str


@dataclass(slots=True)
class Tally:
    """What a segment wrote."""

    files: int
    bytes_raw: int
    bytes_gzip: int
    classes: Counter[str]
    callers: set[tuple[str, int, int]]


class Segment:
    """Writes one segment of the log: its files, and its part of the framings."""

    def __init__(self, plan: Plan, company: Company, number: int) -> None:
        self._plan, self._company, self._number = plan, company, number
        self._random = Random(f"{plan.seed}:segment:{number}")
        self._fields = Fields(self._random)
        self._callers: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._recent: dict[tuple[str, str], deque[Line]] = {}
        self.tally = Tally(0, 0, 0, Counter(), set())

    def write(self) -> Tally:
        first = self._number * SEGMENT_RECORDS
        last = min(first + SEGMENT_RECORDS, self._plan.records)
        framings = Framings(self._plan.out, self._number, self._random)
        written = first
        while written < last:
            account = self._company.accounts[bisect(self._company.account_weights, self._random.random())]
            region = self._random.choices(list(REGIONS), list(REGIONS.values()))[0]
            count = min(last - written, max(1, min(5_000, int(self._random.lognormvariate(5.6, 0.9)))))
            second = START_SECONDS + SPAN_SECONDS * written // self._plan.records
            lines = [self._draw_line(account, region, second) for _ in range(count)]
            self._write_file(account, region, second, lines)
            framings.add(lines[: max(0, FRAMED_RECORDS - written)], account.account_id, region)
            written += count
        framings.close()
        self.tally.callers.update(self._callers)
        return self.tally

    def _draw_line(self, account: Account, region: str, second: int) -> Line:
        recent = self._recent.setdefault((account.account_id, region), deque(maxlen=200))
        while recent and recent[0].second < second - DUPLICATE_DELAY_SECONDS_MAX:
            recent.popleft()
        if recent and self._random.random() < DUPLICATES:
            self.tally.classes["duplicate"] += 1
            return self._random.choice(recent)
        second += self._random.randrange(300)
        principal, event = self._draw_call(account, region)
        if self._random.random() < OTHERS_SHARE:
            return self._render_other(account, principal, region, second)
        text, denied = self._render(account, principal, event, region, second)
        line = Line(text.encode(), event.source, second, "AWS API Call via CloudTrail")
        if principal.kind == "service_linked":
            self.tally.classes["out_of_scope"] += 1
        else:
            self.tally.classes["denied" if denied else "use"] += 1
            recent.append(line)
        return line

    def _draw_call(self, account: Account, region: str) -> tuple[Principal, Event]:
        """A call that this region logs, where a hundred tries find one: a tiny account may use global services only."""
        draw = self._random.random
        for _ in range(100):
            principal = account.principals[bisect(account.principal_weights, draw())]
            event = principal.events[bisect(principal.event_weights, draw())]
            if region == "us-east-1" or event.source not in GLOBAL_SOURCES:
                break
        return principal, event

    def _begin(
        self, account: Account, principal: Principal, source: str, name: str, region: str, second: int
    ) -> Fields:
        fields, random = self._fields, self._random
        fields.clear()
        target = random.choice(account.principals)
        fields.update(
            version=random.choice(("1.08", "1.09", "1.10", "1.11")),
            time=format_time(second),
            milliseconds=second * 1000,
            source=source,
            name=name,
            prefix=source,
            region=region,
            account=principal.account_id,
            role_name=principal.name,
            key_id=principal.key_id,
            bucket=random.choice(principal.buckets),
            target_arn=target.arn,
            target_id=target.unique_id,
            target_name=target.name,
            agent=principal.agent,
            address=principal.address if random.random() < 0.9 else draw_address(random),
            error="",
            shared="",
            tls="",
            endpoint=f'"vpcEndpointId":"vpce-{draw_hex(random, 17)}",' if random.random() < 0.12 else "",
        )
        return fields

    def _render(
        self, account: Account, principal: Principal, event: Event, region: str, second: int
    ) -> tuple[str, bool]:
        """The record's JSON and whether the call was refused."""
        random = self._random
        fields = self._begin(account, principal, event.source, event.name, region, second)
        fields["caller"], fields["caller_arn"] = self._find_caller(principal, second)
        if event.real and random.random() < 1 / 3:
            shape = random.choice(event.real)
            return shape.template % fields, shape.denied
        via_share = 1 if principal.kind == "service_linked" else {"kms": 0.6, "s3": 0.06}.get(event.source, 0.02)
        if random.random() < via_share:
            via = random.choice(principal.calling)
            fields["caller"] = f'{fields["caller"][:-1]},"invokedBy":"{via}"}}'
            fields["address"] = fields["agent"] = via
        else:
            fields["tls"] = TLS_FORMAT % fields
        if random.random() >= ERROR_SHARE:
            return random.choice(event.succeeded) % fields, False
        fields["prefix"] = event.prefix
        code, _, message = random.choices(ERRORS, ERROR_WEIGHTS)[0]
        fields["error"] = f',"errorCode":"{code}","errorMessage":"{compile_template(message) % fields}"'
        return random.choice(event.failed) % fields, code in DENIED

    def _render_other(self, account: Account, principal: Principal, region: str, second: int) -> Line:
        others = self._company.others
        other, source, caller, templates = self._random.choices(others, OTHER_WEIGHTS)[0]
        name = other.event.partition(":")[2]
        fields = self._begin(account, principal, source, name, region, second)
        fields["via"] = f"{self._random.choice(CALLING_SERVICES)}.amazonaws.com"
        fields["shared"] = f'"sharedEventID":"{draw_uuid(self._random)}",'
        fields["own"], _ = self._find_caller(principal, second)
        fields["caller"] = caller % fields
        self.tally.classes[other.name_class] += 1
        text = self._random.choice(templates) % fields
        return Line(text.encode(), source, second, other.detail_type)

    def _find_caller(self, principal: Principal, second: int) -> tuple[str, str]:
        """userIdentity as JSON, and its ARN, of one of the sessions that the principal has at a time."""
        slot = self._random.randrange(principal.session_slots)
        staggered = second - START_SECONDS + slot * principal.session_seconds // principal.session_slots
        key = (principal.unique_id, slot, staggered // principal.session_seconds)
        known = self._callers.get(key)
        if known is None:
            caller = describe_caller(principal, slot, key[2])
            known = self._callers[key] = (orjson.dumps(caller).decode(), caller["arn"])
        return known

    def _write_file(self, account: Account, region: str, second: int, lines: Sequence[Line]) -> None:
        delivered = datetime.fromtimestamp(second + 300, UTC)
        folder = self._plan.out / f"AWSLogs/{account.account_id}/CloudTrail/{region}/{delivered:%Y/%m/%d}"
        folder.mkdir(parents=True, exist_ok=True)
        suffix = draw_base32(self._random, 8) + draw_hex(self._random, 8)
        body = b'{"Records":[' + b",".join(line.text for line in lines) + b"]}"
        packed = gzip.compress(body, 6, mtime=0)
        name = f"{account.account_id}_CloudTrail_{region}_{delivered:%Y%m%dT%H%MZ}_{suffix}.json.gz"
        (folder / name).write_bytes(packed)
        self.tally.files += 1
        self.tally.bytes_raw += len(body)
        self.tally.bytes_gzip += len(packed)


class Framings:
    """One segment's part of eventbridge.lp and cwl.lp, as files that join_framings() puts together."""

    def __init__(self, out: Path, number: int, random: Random) -> None:
        self._random = random
        self._events = (out / f"eventbridge.lp.{number:06}").open("wb")
        self._batches = (out / f"cwl.lp.{number:06}").open("wb")

    def add(self, lines: Sequence[Line], account_id: str, region: str) -> None:
        batch: list[Line] = []
        size = 0
        for line in lines:
            self._write_event(line, account_id, region)
            batch.append(line)
            size += len(line.text)
            if size > BATCH_BYTES_MAX:
                self._write_batch(batch, account_id, region)
                batch, size = [], 0
        if batch:
            self._write_batch(batch, account_id, region)

    def _write_event(self, line: Line, account_id: str, region: str) -> None:
        envelope = {
            "version": "0",
            "id": draw_uuid(self._random),
            "detail-type": line.detail_type,
            "source": f"aws.{line.source}",
            "account": account_id,
            "time": format_time(line.second),
            "region": region,
            "resources": [],
            "detail": orjson.Fragment(line.text),
        }
        event = orjson.dumps(envelope)
        self._events.write(struct.pack("<I", len(event)) + event)

    def _write_batch(self, lines: Sequence[Line], account_id: str, region: str) -> None:
        events = [
            {
                "id": f"{self._random.getrandbits(180):056}",
                "timestamp": (line.second + 300) * 1000,
                "message": line.text.decode(),
            }
            for line in lines
        ]
        batch = {
            "messageType": "DATA_MESSAGE",
            "owner": account_id,
            "logGroup": "aws-cloudtrail-logs",
            "logStream": f"{account_id}_CloudTrail_{region}",
            "subscriptionFilters": ["kinesis"],
            "logEvents": events,
        }
        packed = gzip.compress(orjson.dumps(batch), 6, mtime=0)
        self._batches.write(struct.pack("<II", len(lines), len(packed)) + packed)

    def close(self) -> None:
        self._events.close()
        self._batches.close()


def join_framings(out: Path) -> None:
    for name in ("eventbridge.lp", "cwl.lp"):
        with (out / name).open("wb") as whole:
            for part in sorted(out.glob(f"{name}.*")):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, whole)
                part.unlink()


_company: Company
"""Built once a process, by start_worker."""


def start_worker(plan: Plan) -> None:
    global _company  # noqa: PLW0603  # a pool's initializer has no other way to leave something for its tasks
    _company = build_company(plan)


def write_segment(plan: Plan, number: int) -> Tally:
    return Segment(plan, _company, number).write()


def write_corpus(plan: Plan) -> dict[str, Any]:
    """Writes all files and answers the manifest."""
    company = build_company(plan)
    plan.out.mkdir(parents=True, exist_ok=True)
    for account in company.accounts:
        path = plan.out / f"inventory-{account.account_id}.json"
        path.write_bytes(orjson.dumps(build_inventory(plan, account), option=orjson.OPT_INDENT_2))
    segments = -(-plan.records // SEGMENT_RECORDS)
    classes: Counter[str] = Counter()
    callers: set[tuple[str, int, int]] = set()
    files = bytes_raw = bytes_gzip = 0
    with multiprocessing.Pool(os.cpu_count(), start_worker, (plan,)) as pool:
        for tally in pool.imap(partial(write_segment, plan), range(segments)):
            classes.update(tally.classes)
            callers |= tally.callers
            files += tally.files
            bytes_raw += tally.bytes_raw
            bytes_gzip += tally.bytes_gzip
    join_framings(plan.out)
    return {
        "seed": plan.seed,
        "records": plan.records,
        "principals": plan.principals,
        "files": files,
        "bytes": bytes_raw,
        "bytes_gzip": bytes_gzip,
        "framed_records": min(plan.records, FRAMED_RECORDS),
        "duplicates": classes["duplicate"],
        "classes": dict(sorted(classes.items())),
        "callers": len(callers),
        "real_shapes": sum(map(len, read_real_shapes().values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the benchmark's corpus.")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, or one that is still to be made")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--small", action="store_true", help="60,000 records, for CI")
    parser.add_argument("--principals", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    records = 60_000 if arguments.small else arguments.records
    if records < 1 or arguments.principals < ACCOUNTS:
        parser.error(f"--records must be at least 1 and --principals at least {ACCOUNTS}, one for each account")
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty: remove it or name another folder, the corpus is all that goes in")
    plan = Plan(arguments.out, arguments.seed, records, arguments.principals)
    manifest = json.dumps(write_corpus(plan), indent=2)
    (plan.out / "manifest.json").write_text(manifest + "\n")
    print(manifest)


if __name__ == "__main__":
    main()
