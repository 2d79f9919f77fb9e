"""Which records are finished, and how far each partition may be committed. Bookkeeping only; any thread may call."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection, Mapping

from functions.common.kafka import Partition


@dataclasses.dataclass(slots=True)
class _Progress:
    position: int | None = None
    highwater: int | None = None
    unfinished: set[int] = dataclasses.field(default_factory=set)

    @property
    def done(self) -> int | None:
        return min(self.unfinished, default=self.position)


class Offsets:
    """Progress of the partitions that this member of the group has.

    A record is unfinished from `took` to `finished`. All before the first unfinished one may be committed: whatever
    comes after it is delivered again after a crash, even if it was finished.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[Partition, _Progress] = {}
        self.epoch = 0
        """Changes whenever partitions come or go."""

    def assigned(self, partitions: Collection[Partition]) -> None:
        """These are ours, and no others; what is told of others is ignored. Those we had keep what is known of them."""
        with self._lock:
            self.epoch += 1
            self._partitions = {partition: self._partitions.get(partition, _Progress()) for partition in partitions}

    def took(self, partition: Partition, offset: int) -> None:
        """A record was read."""
        with self._lock:
            if progress := self._partitions.get(partition):
                progress.unfinished.add(offset)
                progress.position = offset + 1

    def reached(self, epoch: int, places: Mapping[Partition, tuple[int, int | None]]) -> None:
        """The position, which skips gaps, and the end of partitions, if it is known.

        Ignored if partitions came or went since `epoch`: a position of before may be beyond what is unfinished now.
        """
        with self._lock:
            for partition, (position, highwater) in places.items():
                if epoch == self.epoch and (progress := self._partitions.get(partition)):
                    progress.position = position
                    progress.highwater = highwater

    def unfinished(self, partition: Partition, offset: int) -> bool:
        """Whether the record was read and not finished, and its partition is still ours."""
        with self._lock:
            progress = self._partitions.get(partition)
            return progress is not None and offset in progress.unfinished

    def finished(self, partition: Partition, offset: int) -> None:
        """A record needs no more work. Nothing happens if its partition is not ours any more."""
        with self._lock:
            if progress := self._partitions.get(partition):
                progress.unfinished.discard(offset)

    def done(self, partitions: Collection[Partition] | None = None) -> dict[Partition, int]:
        """The offset to commit of these partitions, or of all: everything before it is finished."""
        with self._lock:
            done = _done(self._partitions)
        return done if partitions is None else {key: done[key] for key in partitions if key in done}

    def lost(self, partitions: Collection[Partition]) -> None:
        """These are no longer ours."""
        with self._lock:
            self.epoch += 1
            self._partitions = {key: value for key, value in self._partitions.items() if key not in partitions}

    def caught_up(self, at_least: Mapping[Partition, int]) -> bool:
        """Whether everything before the known ends and before `at_least` is finished.

        Not while there is no partition, nor while the end of one is unknown.
        """
        with self._lock:
            done = _done(self._partitions)
            ends = [(partition, progress.highwater) for partition, progress in self._partitions.items()]
        known = bool(ends) and all(end is not None for _, end in ends)
        return known and all(done.get(partition, -1) >= (end or 0) for partition, end in (*ends, *at_least.items()))


def _done(partitions: Mapping[Partition, _Progress]) -> dict[Partition, int]:
    return {partition: progress.done for partition, progress in partitions.items() if progress.done is not None}
