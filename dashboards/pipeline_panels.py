"""Whether gapwatch itself is well."""

from panels import Json, dashboard, lines, stat, table

NONE = 'label_replace(vector(0), "reason", "none", "", "")'


def build_pipeline() -> Json:
    """Rate, errors, duration; utilisation, saturation, errors: the program itself."""
    rate = "[$__rate_interval]"
    quantiles = [
        (f"histogram_quantile({q}, sum by (le) (rate(gapwatch_flush_seconds_bucket{rate})))", f"p{q * 100:g}")
        for q in (0.5, 0.9, 0.99)
    ]
    rows = [
        [
            (
                4,
                4,
                stat(
                    "Age of the verdicts",
                    "Above two minutes it is behind.",
                    "gapwatch:as_of_age_seconds",
                    "s",
                    "",
                    "{{job}}",
                ),
            ),
            (
                4,
                4,
                stat(
                    "Newest record",
                    "How long ago the newest record's call was.",
                    "time() - max(gapwatch_newest_event_timestamp_seconds)",
                    "s",
                ),
            ),
            (4, 4, stat("Store", "1 while Redis is away or full.", "max(gapwatch_store_waiting)", "none", "bad")),
            (
                4,
                4,
                stat(
                    "Budget burnt, last hour",
                    "Share of the hour in which verdicts were more than two minutes old.",
                    "gapwatch:behind:ratio_1h",
                    "percentunit",
                    "",
                    "{{job}}",
                ),
            ),
            (
                4,
                4,
                stat(
                    "Rejected",
                    "Share of the last ten minutes' records.",
                    "max(gapwatch:rejected:ratio_10m) or on() vector(0)",
                    "percentunit",
                ),
            ),
            (4, 4, stat("Principals", "Known by inventory or by use.", "max(gapwatch_principals)", "locale")),
        ],
        [
            (
                12,
                8,
                lines(
                    "Records",
                    "By what became of them.",
                    (f"sum by (class) (rate(gapwatch_records_total{rate}))", "{{class}}"),
                    unit="cps",
                    stacked=True,
                ),
            ),
            (
                12,
                8,
                lines(
                    "Rejected and late",
                    "By reason; late: older than the duplicates' horizon.",
                    (f"sum by (reason) (rate(gapwatch_rejected_total{rate})) or on() {NONE}", "{{reason}}"),
                    (f"sum(rate(gapwatch_late_total{rate}))", "late"),
                    unit="cps",
                ),
            ),
        ],
        [
            (8, 8, lines("Flushes", "How long they take in Redis.", *quantiles, unit="s")),
            (
                8,
                8,
                lines(
                    "Age",
                    "Of the verdicts, of the last flush, of the newest record.",
                    ("max(gapwatch_lag_seconds)", "verdicts"),
                    ("max(gapwatch_flush_age_seconds)", "flush"),
                    ("time() - max(gapwatch_newest_event_timestamp_seconds)", "newest record"),
                    unit="s",
                ),
            ),
            (
                8,
                8,
                lines(
                    "Scrapes",
                    "How long /metrics takes, and whether it answers.",
                    ('max by (instance) (scrape_duration_seconds{job="gapwatch"})', "{{instance}}"),
                    unit="s",
                ),
            ),
        ],
        [
            (
                8,
                9,
                table(
                    "Silence by account",
                    "Since its principals' newest use: a hole, where it is unusually long.",
                    "sort_desc(time() - max by (account) (gapwatch_account_newest_use_timestamp_seconds))",
                    "account",
                    "silent for",
                    "s",
                ),
            ),
            (
                8,
                9,
                table(
                    "Coverage by account",
                    "For how long the log is known to be complete: verdicts of longer windows are unproven.",
                    "sort(time() - max by (account) (gapwatch_account_covered_since_timestamp_seconds))",
                    "account",
                    "covered for",
                    "s",
                ),
            ),
            (
                8,
                9,
                table(
                    "Inventory by account",
                    "How old what is known of grants is.",
                    "sort_desc(time() - max by (account) (gapwatch_inventory_timestamp_seconds))",
                    "account",
                    "age",
                    "s",
                ),
            ),
        ],
        [
            (
                12,
                7,
                lines(
                    "First uses",
                    "Dropped for newer ones, and those that were news still.",
                    ("sum(gapwatch_first_use_evicted_total)", "dropped"),
                    ("sum(gapwatch_first_use_lost_total)", "lost"),
                    unit="locale",
                ),
            ),
            (
                12,
                7,
                lines(
                    "Told by gapwatch itself",
                    "Posts to Alertmanager, none unless it was told to, and messages of topic alerts, by outcome.",
                    (f"sum by (outcome) (rate(gapwatch_pushed_total{rate}))", "pushes {{outcome}}"),
                    (f"sum by (outcome) (rate(gapwatch_alerts_written_total{rate}))", "topic alerts {{outcome}}"),
                    unit="cps",
                ),
            ),
        ],
    ]
    return dashboard("pipeline", "gapwatch / Pipeline", "Whether gapwatch itself is well.", [], rows)
