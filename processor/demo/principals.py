"""The principals of the made-up company, made from the tables of staff.py: one for every account that a row names."""

from collections.abc import Iterator
from dataclasses import dataclass

from processor.demo.accounts import ACCOUNTS, Account
from processor.demo.ids import make_hex, make_unique_id
from processor.demo.staff import ROLES, USERS, RolePlan, UserPlan
from processor.demo.times import DAY_SECONDS


@dataclass(frozen=True, slots=True)
class DemoPrincipal:
    """`kind` is role, user or root. `created` is a time (seconds since 1970); before it the principal is not there, or,
    where it has an `earlier_id`, was another of the same ARN. Root has no plan, and no inventory shows it."""

    arn: str
    unique_id: str
    name: str
    kind: str
    account: Account
    created: int
    plan: RolePlan | UserPlan | None
    earlier_id: str = ""

    def unique_id_at(self, at: int) -> str:
        return self.unique_id if at >= self.created else self.earlier_id

    def exists_at(self, at: int) -> bool:
        return at >= self.created or bool(self.earlier_id)

    @property
    def path(self) -> str:
        return self.plan.path if isinstance(self.plan, RolePlan) else "/"


def stands_in(where: str, account: Account) -> bool:
    """Whether a row of staff.py or jobs.py is for an account: `where` holds purposes, ENV-purposes or "*"."""
    return where == "*" or not {account.purpose, f"{account.env}-{account.purpose}"}.isdisjoint(where.split())


def build_principals(seed: int, until: int) -> tuple[DemoPrincipal, ...]:
    """All principals, account by account: its roles, its users, its root."""
    return tuple(found for account in ACCOUNTS for found in _build_account(seed, until, account))


def _build_account(seed: int, until: int, account: Account) -> Iterator[DemoPrincipal]:
    for plan in ROLES:
        if stands_in(plan.where, account):
            yield build_role(seed, until, account, plan)
    for user in USERS:
        if stands_in(user.where, account):
            yield DemoPrincipal(
                arn=f"arn:aws:iam::{account.id}:user/{user.name}",
                unique_id=make_unique_id("AIDA", seed, account.id, user.name),
                name=user.name,
                kind="user",
                account=account,
                created=_date_back(until, user.age_days, account.id, user.name),
                plan=user,
            )
    yield DemoPrincipal(f"arn:aws:iam::{account.id}:root", account.id, "root", "root", account, 0, None)


def build_role(seed: int, until: int, account: Account, plan: RolePlan) -> DemoPrincipal:
    """One role of an account; in PROD it may be one that was deleted and created anew."""
    name = plan.name.format(hash=make_hex(16, account.id, plan.name))
    remade = plan.remade_days if account.env == "PROD" else 0
    first_id = make_unique_id("AROA", seed, account.id, name)
    return DemoPrincipal(
        arn=f"arn:aws:iam::{account.id}:role{plan.path}{name}",
        unique_id=make_unique_id("AROA", seed, account.id, name, "remade") if remade else first_id,
        name=name,
        kind="role",
        account=account,
        created=until - remade * DAY_SECONDS if remade else _date_back(until, plan.age_days, account.id, name),
        plan=plan,
        earlier_id=first_id if remade else "",
    )


def _date_back(until: int, days: int, *parts: str) -> int:
    """That many days before, less some hours, so that not everything is made in the same second."""
    return until - days * DAY_SECONDS + int(make_hex(4, *parts), 16)
