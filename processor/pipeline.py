"""A batch through every hop; reads like the diagram in the design.

payload bytes -> records -> principals -> actions -> uses -> usage -> store -> gap
"""

from collections.abc import Sequence

from processor.core.actions import ActionMap
from processor.core.batches import Decoded, add_decoded, decode_log_batch, decode_payloads
from processor.core.horizon import Horizon
from processor.core.intake import Intake
from processor.core.ledger import Ledger
from processor.core.principals import Known
from processor.core.records import TIME_MAX
from processor.core.sessions import Scope
from processor.core.tally import Tally


class Pipeline:
    """An intake and a ledger in one process, calling each other directly.

    `until` as in Intake: records that are newer count in the classes only; `seed` as there.
    """

    def __init__(
        self, actions: ActionMap, scope: Scope, known: Known, horizon: Horizon, *, until: int = TIME_MAX, seed: int = 0
    ) -> None:
        self.tally = Tally()
        self.intake = Intake(actions, scope, known, self.tally, until, seed)
        self.ledger = Ledger(horizon, self.tally, until)

    def feed(self, decoded: Decoded) -> None:
        """Take in what a source decoded."""
        self.ledger.apply_uses(self.intake.resolve(decoded))

    def feed_payloads(self, payloads: Sequence[bytes]) -> None:
        """Take in payloads of any form, unzipped: EventBridge events, records, notifications."""
        self.feed(decode_payloads(payloads))

    def feed_log_batches(self, batches: Sequence[bytes | bytearray]) -> None:
        """Take in CloudWatch Logs batches, unzipped, as one: each has a few hundred records."""
        found = Decoded([], [], [])
        for batch in batches:
            add_decoded(found, decode_log_batch(batch))
        self.feed(found)
