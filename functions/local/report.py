"""What a load has come to: counts, latencies, and the words for them. Pure."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

LATE = 0.05
"""Seconds after its intended time from which a batch counts as late."""


@dataclasses.dataclass
class Tally:
    """What became of the logs. `failed` counts logs by status, `reasons` has the first text of each.

    `latencies` (of batches that were answered 200) and `lateness` (of all) are in seconds from the intended time,
    `seconds` is the time from the start to the last batch's sending.
    """

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    repeats: int = 0
    seconds: float = 0.0
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    latencies: list[float] = dataclasses.field(default_factory=list)
    lateness: list[float] = dataclasses.field(default_factory=list)

    @property
    def done(self) -> int:
        """Logs whose fate is known."""
        return self.accepted + self.rejected + self.failed.total()

    def note(self, status: str, text: str) -> None:
        """Keep the first text of a status."""
        self.reasons.setdefault(status, " ".join(text.split())[:300])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed; 0 if there are none."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else 0.0


def summary(tally: Tally, rate: int) -> str:
    """What was sent and what came of it, as lines for a person."""
    held = tally.sent / tally.seconds if tally.seconds else 0.0
    late = sum(lateness > LATE for lateness in tally.lateness)
    behind = 1000 * percentile(tally.lateness, 0.99)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    latency = [f"{name} {1000 * percentile(tally.latencies, share):.1f} ms" for name, share in shares.items()]
    lines = [
        f"sent      {tally.sent:,} logs in {len(tally.lateness):,} requests, and {tally.repeats:,} requests again",
        f"accepted  {tally.accepted:,}",
        f"rejected  {tally.rejected:,}" + (f"; the first: {tally.reasons['rejected']}" if tally.rejected else ""),
        f"failed    {tally.failed.total():,}",
        *(f"  {status}: {count:,}; the first: {tally.reasons[status]}" for status, count in tally.failed.most_common()),
        f"rate      {held:,.0f} logs/s of {rate:,} asked ({held / rate:.1%})",
        f"late      {late:,} requests by over {LATE * 1000:.0f} ms, p99 {behind:.1f} ms",
        "latency   "
        + (", ".join(latency) + " from the intended time" if tally.latencies else "no request was answered 200"),
    ]
    return "\n".join(lines)


def fault(tally: Tally, found: int | None) -> str:
    """Why the run has failed, or nothing if every log sent was accepted and is found once."""
    faults = []
    if tally.accepted != tally.sent:
        faults.append(f"{tally.sent - tally.accepted:,} of {tally.sent:,} logs sent were not accepted")
    if found is None:
        faults.append("no search was answered")
    elif found != tally.accepted:
        faults.append(f"{tally.accepted:,} logs were accepted and a search finds {found:,}")
    return "; ".join(faults)
