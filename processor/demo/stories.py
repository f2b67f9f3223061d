"""What the demo is about: the planted stories of the made-up company, and the records that they take.

Some lie in the inventory only (a grant that nobody uses), some happen live at a set time after the demo's beginning,
and one is a silence: what was used a week ago, and is not used again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from processor.demo.accounts import DEV, LAKE, MANAGEMENT, PROD, QA, Account
from processor.demo.activity import Activity, Timed
from processor.demo.calls import Call
from processor.demo.inventory import FRESH_AGES
from processor.demo.jobs import parse_steps
from processor.demo.principals import DemoPrincipal, build_role
from processor.demo.records import write_assume, write_sign_in
from processor.demo.scenes import SERVICES, Scene
from processor.demo.sessions import name_operator, name_service
from processor.demo.staff import RolePlan
from processor.demo.times import DAY_SECONDS

PASS_ROLE_SECONDS, ENGINEER_SECONDS, BREAK_GLASS_SECONDS, DENIED_SECONDS, LAPSE_SECONDS = 20, 45, 75, 105, 150
"""When the live stories happen, in seconds after the demo's beginning."""

LAPSE_DAYS = 7
"""The window from which the lapse story's use falls."""

DELETED = RolePlan("old-batch-runner", "PROD-workload", "task")
"""A role that was deleted before the demo: its records name it, the inventory does not."""

DELETED_DAYS = 20


@dataclass(frozen=True, slots=True)
class Story:
    """`kind` is use (somebody does it at `at`), denied, lapse (a use leaves a window at `at`) or grant (only the
    inventory shows it; `at` is the demo's beginning). `action` is an IAM action."""

    name: str
    kind: str
    what: str
    principal_arn: str
    action: str
    at: int


@dataclass(frozen=True, slots=True)
class Plant:
    """A burst at a set time: step n at `at` + n * `every` (as many in a second as `together`). `caller` is the other
    principal that opens the session, `opening` whether its opening is logged at all."""

    at: int
    principal: DemoPrincipal
    client: str
    steps: str
    operator: str = ""
    caller: DemoPrincipal | None = None
    opening: bool = False
    together: int = 1
    known: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cast:
    """The company's principals by name and account."""

    principals: Sequence[DemoPrincipal]

    def find(self, name: str, account: Account) -> DemoPrincipal:
        return next(found for found in self.principals if found.name == name and found.account is account)


def build_stories(cast: Cast, until: int, now: int) -> list[Story]:
    """All stories, in the order of their times. Those that happen live count from `now`, a lapse from `until`."""
    deployer = cast.find("ci-deployer", PROD).arn
    rows = (
        ("unused-admin", "grant", "An administrator meant for one weekend in 2024 still stands; nobody has used it for a year.",
         cast.find("migration-2024-admin", PROD).arn, "iam:AttachRolePolicy", until),
        ("widened-deployer", "grant", "The deployer was given all of iam:* on a Friday, and nobody took it back.",
         deployer, "iam:CreateAccessKey", until),
        ("unused-delete", "grant", "The lake's compactor may delete whole buckets (s3:Delete*), and never has.",
         cast.find("lake-compactor", LAKE).arn, "s3:DeleteBucket", until),
        ("too-new", "grant", "Two days ago checkout was allowed to delete tables: too new to be called unused.",
         cast.find("checkout-api-task", PROD).arn, "dynamodb:DeleteTable", until),
        ("first-pass-role", "use", "The deployer creates a Lambda function and hands it a role, for the first time.",
         deployer, "iam:PassRole", now + PASS_ROLE_SECONDS),
        ("first-privileged", "use", "An engineer changes who may assume a production role, which nobody did before.",
         cast.find("platform-engineer", PROD).arn, "iam:UpdateAssumeRolePolicy", now + ENGINEER_SECONDS),
        ("break-glass", "use", "The emergency role is used, after seven months: a shell on a production machine.",
         cast.find("break-glass", PROD).arn, "ssm:StartSession", now + BREAK_GLASS_SECONDS),
        ("denied-spike", "denied", "The monitoring vendor's role asks for secrets again and again, and is refused.",
         cast.find("skylark-monitoring", PROD).arn, "secretsmanager:GetSecretValue", now + DENIED_SECONDS),
        ("lapse", "lapse", "The weekly warehouse load does not come: its last use leaves the 7-day window, the gap widens.",
         cast.find("lake-redshift-loader", LAKE).arn, "redshift-data:ExecuteStatement", until + LAPSE_SECONDS),
    )  # fmt: skip
    return sorted((Story(*row) for row in rows), key=lambda story: story.at)


def list_past_plants(cast: Cast, seed: int, until: int) -> Iterator[Plant]:
    """What the history holds beside the jobs, in no order."""
    loader = cast.find("lake-redshift-loader", LAKE)
    for week in range(1, 9):
        at = until + LAPSE_SECONDS - week * LAPSE_DAYS * DAY_SECONDS
        yield Plant(at - 1, loader, "lambda", "logs:CreateLogStream redshift-data:ExecuteStatement DescribeStatement*2")
    for account in (DEV, QA, PROD):
        at = until - FRESH_AGES[account.env] * DAY_SECONDS
        engineer = cast.find("platform-engineer", account)
        yield Plant(at, engineer, "cli", "iam:CreatePolicyVersion", "hana.sato@harbourlight.example")
    terraform = cast.find("terraform-apply", PROD)
    invoices = cast.find("invoice-render-lambda", PROD)
    made_anew = {"some_role": invoices.name}
    yield Plant(
        invoices.created - 1, terraform, "terraform", "iam:DeleteRole CreateRole PutRolePolicy", known=made_anew
    )
    quotes = cast.find("quotes-api-task", PROD)
    yield Plant(
        quotes.created, terraform, "terraform", "iam:CreateRole PutRolePolicy", known={"some_role": quotes.name}
    )
    deleted = build_role(seed, until, PROD, DELETED)
    gone = until - DELETED_DAYS * DAY_SECONDS
    for day in range(1, 25):
        yield Plant(gone - day * DAY_SECONDS, deleted, "task", "logs:CreateLogStream s3:GetObject*2", opening=True)
    yield Plant(gone, terraform, "terraform", "iam:DeleteRole", known={"some_role": deleted.name})
    root = cast.find("root", MANAGEMENT)
    yield Plant(
        until - 17 * DAY_SECONDS, root, "console", "iam:GetAccountSummary organizations:ListAccounts", opening=True
    )


def list_live_plants(cast: Cast, now: int) -> Iterator[Plant]:
    """The stories that happen live; each plant is laid so that its story's action falls on the story's time."""
    yield Plant(
        now + PASS_ROLE_SECONDS - 1, cast.find("ci-deployer", PROD), "github",
        "lambda:GetFunction20150331v2 CreateFunction20150331", opening=True, known={"service": "refunds-worker"},
    )  # fmt: skip
    yield Plant(
        now + ENGINEER_SECONDS - 1, cast.find("platform-engineer", PROD), "cli", "iam:GetRole UpdateAssumeRolePolicy",
        "dev.menon@harbourlight.example", opening=True, known={"some_role": "payments-api-task"},
    )  # fmt: skip
    yield Plant(
        now + BREAK_GLASS_SECONDS - 1, cast.find("break-glass", PROD), "console",
        "ec2:DescribeInstances ssm:StartSession rds:ModifyDBInstance", "bea.moreau@harbourlight.example",
        caller=cast.find("break-glass-2", MANAGEMENT), opening=True,
    )  # fmt: skip
    yield Plant(
        now + DENIED_SECONDS, cast.find("skylark-monitoring", PROD), "vendor",
        "!secretsmanager:GetSecretValue*24 !ssm:GetParametersByPath*18 !kms:Decrypt*18", together=3,
    )  # fmt: skip


def write_plants(plants: Iterator[Plant], activity: Activity, calls: dict[str, Call]) -> list[Timed]:
    """The records of some plants, in the order of their times."""
    written = [timed for plant in plants for timed in _write_plant(plant, activity, calls)]
    written.sort(key=lambda timed: timed[0])
    return written


def _write_plant(plant: Plant, activity: Activity, calls: dict[str, Call]) -> Iterator[Timed]:
    principal = plant.principal
    rng = Random(f"{activity.seed}:plant:{plant.at}:{principal.arn}")
    operator = plant.operator or name_operator(principal, plant.at, 0)
    session = activity.open_session(principal, operator, plant.client, plant.at)
    service = name_service(principal) or SERVICES[principal.account.purpose][0]
    scene = Scene(rng, principal.account, service, operator=operator)
    scene.update(plant.known)
    if plant.opening and principal.kind == "role":
        caller = activity.open_session(plant.caller, "", plant.client, plant.at) if plant.caller else None
        for record in write_assume(session, plant.at, rng, caller):
            yield plant.at, record
    if plant.opening and session.client.console:
        yield plant.at, write_sign_in(session, plant.at, rng)
    for number, step in enumerate(parse_steps(plant.steps, calls)):
        at = plant.at + number // plant.together
        session = activity.open_session(principal, operator, plant.client, at)
        for record in activity.write_step(step, session, at, scene):
            yield at, record
