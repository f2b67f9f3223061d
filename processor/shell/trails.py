"""CloudTrail's trails and EventBridge's rules of an account as they are now."""

from collections.abc import Sequence
from dataclasses import dataclass

from processor.core.trails import Rule, Trail
from processor.shell.aws_accounts import Accounts

HOME = "us-east-1"


@dataclass(frozen=True, slots=True)
class LoggingPlan:
    """What `--logging-from aws` was told: how records come (`eventbridge`: through rules, else from the trails' files), and the
    regions that may be used, none: all that are turned on."""

    eventbridge: bool = False
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundTrails:
    """An account's trails, the organization's among them; `rules` is None where records do not come by EventBridge."""

    trails: Sequence[Trail]
    regions: Sequence[str]
    rules: Sequence[Rule] | None


async def fetch_trails(accounts: Accounts, account_id: str, plan: LoggingPlan) -> FoundTrails:
    """Read what an account logs. Raises AwsError."""
    regions = plan.regions or await _find_regions(accounts, account_id)
    trails: dict[str, Trail] = {}
    # A trail of one region is told of in that region only; one of all regions in each.
    for region in regions:
        async with accounts.open("cloudtrail", account_id, region) as client:
            for found in (await client.call("DescribeTrails", includeShadowTrails=True)).get("trailList") or ():
                arn = str(found["TrailARN"])
                if arn in trails or (found.get("HomeRegion") != region and found.get("HomeRegion") in regions):
                    continue
                status = await client.call("GetTrailStatus", Name=arn)
                selectors = await client.call("GetEventSelectors", TrailName=arn)
                trails[arn] = Trail(
                    name=str(found["Name"]),
                    home_region=str(found.get("HomeRegion") or region),
                    multi_region=bool(found.get("IsMultiRegionTrail")),
                    global_events=bool(found.get("IncludeGlobalServiceEvents")),
                    logging=bool(status.get("IsLogging")),
                    selectors=selectors.get("EventSelectors") or (),
                    advanced=selectors.get("AdvancedEventSelectors") or (),
                )
    rules = None
    if plan.eventbridge:
        rules = [rule for region in regions for rule in await _fetch_rules(accounts, account_id, region)]
    return FoundTrails(list(trails.values()), list(regions), rules)


async def _find_regions(accounts: Accounts, account_id: str) -> list[str]:
    async with accounts.open("ec2", account_id) as client:
        found = (await client.call("DescribeRegions")).get("Regions") or ()
    return [str(region["RegionName"]) for region in found] or [HOME]


async def _fetch_rules(accounts: Accounts, account_id: str, region: str) -> list[Rule]:
    async with accounts.open("events", account_id, region) as client:
        rules = []
        for found in await client.gather("ListRules", "Rules"):
            if not found.get("EventPattern"):
                continue
            if await client.gather("ListTargetsByRule", "Targets", Rule=found["Name"]):
                rules.append(Rule(str(found["Name"]), region, str(found.get("State")), str(found["EventPattern"])))
    return rules
