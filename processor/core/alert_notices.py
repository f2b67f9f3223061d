"""Messages of topic `alerts` -> what people are told who have no Alertmanager."""

from processor.core.notices import Notice, show
from processor.core.records import format_time
from topics.alerts import Alert
from topics.contract import principal_key

FRESH_SECONDS = 3_600
"""An alert that began longer ago is told by nobody any more: whoever reads the topic from its start wakes no one."""


def find_notice(alert: Alert, now: float) -> Notice | None:
    """The notice of an alert as it stands; None for one that is not worth a message now: it is old, or it is a grant that lies
    unused, which the day's digest is for."""
    if alert.kind == "unused_high_risk" or not alert.starts_at > now - FRESH_SECONDS:
        return None
    path = f"/principals/{principal_key(alert.arn, alert.unique_id).hex()}"
    action = alert.action or ""
    time = format_time(alert.starts_at if alert.evidence is None else alert.evidence.event_time)
    operator = "" if alert.evidence is None or not alert.evidence.operator else f" by {show(alert.evidence.operator)}"
    if alert.kind == "first_use":
        risks = ", ".join(risk.replace("_", " ") for risk in alert.risks) or "privileged"
        return Notice(
            id=alert.id,
            kind="first_use",
            text=f"{show(alert.arn)} used {show(action)} for the first time, at {time}{operator} ({risks})",
            path=f"{path}?action={action.replace(':', '%3A')}#actions",
        )
    return Notice(
        # It has the same id each time that it is used anew.
        id=f"{alert.id} {alert.starts_at}",
        kind="break_glass",
        text=f"The emergency principal {show(alert.arn)} is in use: {show(action)} at {time}{operator}",
        path=path,
    )
