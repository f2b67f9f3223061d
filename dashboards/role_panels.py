"""One role or user."""

from panels import ACCOUNT, ONE, PAGE, PRINCIPAL, Json, bars, dashboard, lines, stat, table

NONE = 'label_replace(vector(0), "risk", "none", "", "")'


def build_role() -> Json:
    """One principal in all windows."""
    page = "${page}/principals/${__data.fields.key}"
    key = f"max by (account, principal, key, kind) (gapwatch_principal_info{{{ONE}}})"
    rows = [
        [
            (
                8,
                4,
                stat(
                    "Gap index",
                    "In each window.",
                    f"max by (window) (gapwatch_gap_index{{{ONE}}})",
                    "none",
                    "gap",
                    "{{window}}",
                ),
            ),
            (
                4,
                4,
                stat(
                    "Privileged calls refused",
                    "Within ten minutes.",
                    f"sum(gapwatch_denied_privileged_recent{{{ONE}}}) or on() vector(0)",
                    "locale",
                    "bad",
                ),
            ),
            (
                4,
                4,
                stat(
                    "Learning for another",
                    "Its first uses are quiet meanwhile, but for the gravest.",
                    f"clamp_min(max(gapwatch_learning_until_timestamp_seconds{{{ONE}}}) - time(), 0) or on() vector(0)",
                    "s",
                ),
            ),
            (
                8,
                4,
                table(
                    "Its page",
                    "Evidence, statements and a smaller policy.",
                    key,
                    "account principal key kind",
                    "listed",
                    "none",
                    page,
                ),
            ),
        ],
        [
            (
                12,
                8,
                lines(
                    "Gap index over time",
                    "By window.",
                    (f"max by (window) (gapwatch_gap_index{{{ONE}}})", "{{window}}"),
                ),
            ),
            (
                12,
                8,
                lines(
                    "Unused grants",
                    "By window.",
                    (f'max by (window) (gapwatch_gap_grants{{{ONE},verdict="unused"}})', "{{window}}"),
                    unit="locale",
                ),
            ),
        ],
        [
            (
                8,
                9,
                bars(
                    "Grants by verdict",
                    "Of each window.",
                    f"max by (window, verdict) (gapwatch_gap_grants{{{ONE}}})",
                    "{{window}} {{verdict}}",
                    "locale",
                ),
            ),
            (
                8,
                9,
                bars(
                    "Unused by risk",
                    "Of each window; what is exempt is counted here, too.",
                    f"max by (window, risk) (gapwatch_gap_risk_grants{{{ONE}}})",
                    "{{window}} {{risk}}",
                    "locale",
                ),
            ),
            (
                8,
                9,
                lines(
                    "Refused privileged calls",
                    "By risk class, ten minutes each.",
                    (
                        f"sum by (risk) (increase(gapwatch_denied_privileged_total{{{ONE}}}[10m])) or on() {NONE}",
                        "{{risk}}",
                    ),
                    unit="locale",
                ),
            ),
        ],
        [
            (
                24,
                8,
                table(
                    "First uses of privileged actions",
                    "When each was first used, its gravest class, and why it was not told.",
                    f"sort_desc(max by (account, action, risk, quiet) (gapwatch_first_use_timestamp_seconds{{{ONE}}}) * 1000)",
                    "account action risk quiet",
                    "first used",
                    "dateTimeAsIso",
                ),
            ),
        ],
    ]
    return dashboard("role", "gapwatch / Role", "One role or user.", [ACCOUNT, PRINCIPAL, PAGE], rows)
