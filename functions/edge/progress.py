"""What the person who runs the shipper is told, on standard error."""

from __future__ import annotations

import asyncio
import sys

from tqdm import tqdm

from functions.edge.forward import Forwarder
from functions.edge.spool import Spool

_REFRESH_SECONDS = 0.2


def say(text: str) -> None:
    """Tell the person, above the line that shows the progress."""
    tqdm.write(f"ship: {text}", file=sys.stderr)


class Progress:
    """One line that changes, on a terminal and if not `quiet`; and a word when delivery fails and when it works again.

    `read` is how many lines were read, `full` why reading waits for the spool, or empty.
    """

    def __init__(self, spool: Spool, forwarder: Forwarder, quiet: bool) -> None:
        self.read = 0
        self.full = ""
        self._spool = spool
        self._forwarder = forwarder
        self._away = False
        hidden = quiet or not sys.stderr.isatty()
        self._bar = tqdm(disable=hidden, unit=" lines", bar_format="{desc}, {rate_fmt}", file=sys.stderr)

    async def run(self) -> None:
        """Keep the person informed until cancelled."""
        try:
            while True:
                self._show()
                await asyncio.sleep(_REFRESH_SECONDS)
        finally:
            self._show()
            self._bar.close()

    def counts(self) -> str:
        """How many lines are where."""
        waiting = f", {self._spool.count:,} waiting" if self._spool.count else ""
        return f"{self.read:,} lines read, {self._forwarder.sent:,} delivered{waiting}"

    def _show(self) -> None:
        trouble = self._trouble()
        self._bar.update(self._forwarder.sent - self._bar.n)
        self._bar.set_description_str(trouble or self.counts())
        if bool(trouble) != self._away:
            say(f"{trouble} ({self._forwarder.failing or self.full})" if trouble else "lines are delivered again")
        self._away = bool(trouble)

    def _trouble(self) -> str:
        """What keeps lines from ingest, or nothing."""
        why = self._forwarder.failing
        if not why:
            # A spool that waits for ingest is full again and again; an empty one is only if the disk is.
            return "reading waits" if self.full and not self._spool.count else ""
        # An answer's status, or the name of the client's error; anything else went wrong on this side.
        word = why.split()[0]
        if word.isdecimal():
            what = f"ingest answers {word}"
        elif word.endswith(("Error", "Timeout")):
            what = "ingest does not answer"
        else:
            what = "lines cannot be delivered now"
        full = f"; reading waits: {self.full}" if self.full else ""
        return f"{what}, {self._spool.count:,} lines wait on disk{full}"
