"""Slices of records that are applied together, within bounds."""

from processor.core.batches import Decoded, add_decoded

HELD_RECORDS = 16_384
HELD_BYTES = 64 * 1024 * 1024
"""What a round of loops costs whatever it applies is a seventh of all when it applies 4,096 records of small files; beyond
this many it costs more again, as the records' own bytes are no longer near."""


class Held:
    """What was read and is not applied yet. Bounded by whoever asks `is_full` after each slice."""

    def __init__(self, records_max: int = HELD_RECORDS) -> None:
        self.decoded = Decoded([], [], [])
        self._records_max = records_max
        self._records = 0
        self._bytes = 0
        self._text: object = None

    def add(self, more: Decoded) -> None:
        """Take in a slice; slices of one text come one after the other."""
        add_decoded(self.decoded, more)
        self._records += more.read
        for batch in more.batches:
            for text in batch.texts:
                if text is not self._text:
                    self._text = text
                    self._bytes += len(text)

    @property
    def is_full(self) -> bool:
        return self._records >= self._records_max or self._bytes >= HELD_BYTES
