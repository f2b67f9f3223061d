"""What fires and why."""

from panels import ROLE_LINK, Json, dashboard, stat, table, words

FIRST_THINGS = """1. **Is the pipeline well?** The four numbers on the left. If one is red, begin with its runbook:
   what looks unused may only not have been read yet.
2. **What fires?** The table: each alert's annotation has its runbook, the role's dashboard and its page.
3. **First use or break-glass?** Ask the operator that the role's page names. No answer within minutes: revoke the sessions.
4. **Refusals?** One action evenly after a deployment is a missing grant; many different ones are somebody trying.
"""


def build_oncall() -> Json:
    """What fires, and the first things to check."""
    firing = 'ALERTS{alertname=~"Gapwatch.*",alertstate="firing"}'
    seen = 'max by (account, principal, action, risk) (gapwatch_first_use_seen_timestamp_seconds{quiet!="exempt"})'
    rows = [
        [
            (4, 4, stat("Answers", "How many gapwatches answer scrapes.", 'sum(up{job="gapwatch"})', "none")),
            (4, 4, stat("Verdicts' age", "Above two minutes it is behind.", "max(gapwatch:as_of_age_seconds)", "s")),
            (
                4,
                4,
                stat(
                    "Newest record",
                    "How long ago its call was.",
                    "time() - max(gapwatch_newest_event_timestamp_seconds)",
                    "s",
                ),
            ),
            (
                4,
                4,
                stat("Store waiting", "1 while Redis is away or full.", "max(gapwatch_store_waiting)", "none", "bad"),
            ),
            (
                4,
                4,
                stat(
                    "Firing pages",
                    "Alerts that wake somebody.",
                    f'count({firing[:-1]},severity="page"}}) or on() vector(0)',
                    "none",
                    "bad",
                ),
            ),
            (
                4,
                4,
                stat(
                    "Firing tickets",
                    "Alerts that wait for the day.",
                    f'count({firing[:-1]},severity="ticket"}}) or on() vector(0)',
                    "none",
                ),
            ),
        ],
        [
            (
                13,
                9,
                table(
                    "What fires",
                    "How many of each, by severity and account; the few stand first, pages are never many.",
                    f"sort(count by (alertname, severity, account) ({firing}))",
                    "alertname severity account",
                    "alerts",
                    "none",
                ),
            ),
            (11, 9, words("First things to check", FIRST_THINGS)),
        ],
        [
            (
                24,
                9,
                table(
                    "Newest first uses",
                    "Privileged actions that became news last.",
                    f"sort_desc(topk(15, {seen}) * 1000)",
                    "account principal action risk",
                    "seen",
                    "dateTimeAsIso",
                    ROLE_LINK,
                ),
            ),
        ],
        [
            (
                8,
                8,
                table(
                    "Break-glass",
                    "The last use of each emergency principal.",
                    "sort_desc(max by (account, principal) (gapwatch_break_glass_use_timestamp_seconds) * 1000)",
                    "account principal",
                    "last used",
                    "dateTimeAsIso",
                    ROLE_LINK,
                ),
            ),
            (
                8,
                8,
                table(
                    "Refused privileged calls",
                    "Within ten minutes, by principal.",
                    "sort_desc(topk(15, max by (account, principal) (gapwatch_denied_privileged_recent)) or on() vector(0))",
                    "account principal",
                    "refused",
                    "locale",
                    ROLE_LINK,
                ),
            ),
            (
                8,
                8,
                table(
                    "Exemptions",
                    "How long each still holds; below zero it has expired.",
                    "sort(max by (exemption, owner) (gapwatch_exemption_expiry_timestamp_seconds) - time())",
                    "exemption owner",
                    "holds for",
                    "s",
                ),
            ),
        ],
    ]
    return dashboard("oncall", "gapwatch / On call", "What fires and why.", [], rows)
