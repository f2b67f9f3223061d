"""The fleet."""

from panels import ACCOUNT, HERE, ROLE_LINK, WINDOWS, Json, bars, dashboard, lines, stat, table


def build_gap() -> Json:
    """The fleet, for who closes gaps by day."""
    index = f"max by (account, principal) (gapwatch_gap_index{{{HERE}}})"
    grants = f"max by (account, principal, verdict) (gapwatch_gap_grants{{{HERE}}})"
    unused = f'max by (account, principal) (gapwatch_gap_grants{{{HERE},verdict="unused"}})'
    first = 'max by (account, principal, action, risk) (gapwatch_first_use_timestamp_seconds{account=~"$account"})'
    moved = f'round(max by (account, principal) (delta(gapwatch_gap_grants{{{HERE},verdict="unused"}}[$__range])))'
    rows = [
        [
            (
                4,
                4,
                stat(
                    "Gap index",
                    "Mean of all principals: 0 when nothing is unused, 100 when all is.",
                    f"avg({index})",
                    "none",
                    "gap",
                ),
            ),
            (
                5,
                4,
                stat("Unused grants", "Granted actions that nobody used in the window.", f"sum({unused})", "locale"),
            ),
            (
                5,
                4,
                stat(
                    "Unused with a risk class",
                    "An action with two classes counts twice.",
                    f"sum(max by (account, principal, risk) (gapwatch_gap_risk_grants{{{HERE}}}))",
                    "locale",
                    "bad",
                ),
            ),
            (5, 4, stat("Principals", "Roles and users with an inventory.", f"count({index})", "locale")),
            (
                5,
                4,
                stat(
                    "Used without a grant",
                    "Actions that succeeded though no policy that is read grants them.",
                    f"sum(max by (account, principal) (gapwatch_gap_used_not_granted{{{HERE}}})) or on() vector(0)",
                    "locale",
                ),
            ),
        ],
        [
            (
                12,
                8,
                lines(
                    "Gap index by account", "Mean of its principals.", (f"avg by (account) ({index})", "{{account}}")
                ),
            ),
            (
                12,
                8,
                lines(
                    "Grants by verdict",
                    "All principals in the window.",
                    (f"sum by (verdict) ({grants})", "{{verdict}}"),
                    unit="locale",
                    stacked=True,
                ),
            ),
        ],
        [
            (
                10,
                10,
                table(
                    "Worst roles",
                    "The highest gap index in the window.",
                    f"sort_desc(topk(25, {index}))",
                    "account principal",
                    "gap index",
                    "none",
                    ROLE_LINK,
                ),
            ),
            (
                14,
                10,
                table(
                    "Newly used",
                    "The newest first uses of privileged actions.",
                    f"sort_desc(topk(25, {first}) * 1000)",
                    "account principal action risk",
                    "first used",
                    "dateTimeAsIso",
                    ROLE_LINK,
                ),
            ),
        ],
        [
            (
                8,
                9,
                bars(
                    "Unused by account",
                    "Granted actions that nobody used.",
                    f"sum by (account) ({unused})",
                    "{{account}}",
                    "locale",
                ),
            ),
            (
                8,
                9,
                bars(
                    "Unused by service",
                    "The fifteen services with the most.",
                    f"topk(15, sum by (service) (max by (account, service) (gapwatch_service_unused_grants{{{HERE}}})))",
                    "{{service}}",
                    "locale",
                ),
            ),
            (
                8,
                9,
                bars(
                    "Unused by risk",
                    "By risk class.",
                    f"sum by (risk) (max by (account, principal, risk) (gapwatch_gap_risk_grants{{{HERE}}}))",
                    "{{risk}}",
                    "locale",
                ),
            ),
        ],
        [
            (
                24,
                8,
                table(
                    "What changed",
                    "The greatest changes of unused grants in the time that is shown: above 0 the gap widened, below it closed.",
                    f"sort_desc(topk(12, {moved}) or bottomk(12, {moved}))",
                    "account principal",
                    "change",
                    "locale",
                    ROLE_LINK,
                ),
            ),
        ],
    ]
    return dashboard("gap", "gapwatch / Gap", "What principals may do, less what they did.", [ACCOUNT, WINDOWS], rows)
