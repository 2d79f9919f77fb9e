"""Following files: each line of each file once, across restarts and rotation.

The position of a file is stored with the batch that holds the lines before it. A file that was renamed is read to its
end under whatever name it has. What copytruncate cuts off before it was read is lost: no reader can prevent that; and
so is a file that comes and goes by rename between two looks, unless a pattern matches its new name, too
(`access.log*`).
"""

from __future__ import annotations

import asyncio
import glob
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from functions.edge.file import File, Position, key_at
from functions.edge.records import Batch, Records

POLL_SECONDS = 0.2
SCAN_SECONDS = 1.0
KEPT_SECONDS = 30 * 86_400
"""So long the position of a file is kept that is found no more."""
PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
"""Files that a glob passes over: what was packed was read before."""


class Files:
    """All files that match the patterns, now or later.

    `known` is the spool's positions. With `from_end`, files that are there already are read from their end, if none of
    their pattern was read before. With `once`, files are read to where they end now. `say` is told what cannot be read;
    `unread` has the paths.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        records: Records,
        known: Mapping[str, str],
        say: Callable[[str], None],
        *,
        from_end: bool = False,
        once: bool = False,
    ) -> None:
        self.once = once
        self.unread: set[str] = set()
        self._patterns = [os.path.abspath(pattern) for pattern in patterns]  # noqa: PTH100  no Path: these are globs
        self._records = records
        self._known = {key: msgspec.json.decode(text, type=Position) for key, text in known.items()}
        self._skipped = set(self._patterns) - {known.pattern for known in self._known.values()} if from_end else set()
        self._say = say
        self._files: dict[str, File] = {}
        self._forgotten: dict[str, str] = {}
        self._scanned: float | None = None
        self._stopped = False

    @property
    def ended(self) -> bool:
        """Whether all is read that was asked for."""
        return self._stopped or (self.once and self._scanned is not None and not self._files)

    async def wait(self) -> None:
        """Return when it is time to look again."""
        await asyncio.sleep(POLL_SECONDS)

    def read(self) -> Batch:
        """The lines that can be read now, up to a full batch, and the positions after them."""
        if self._scanned is None or (not self.once and time.monotonic() - self._scanned >= SCAN_SECONDS):
            self._scan(self._scanned is None)
            self._scanned = time.monotonic()
        batch = Batch(positions=self._forgotten)
        self._forgotten = {}
        for key, file in [*self._files.items()]:
            self._take(key, file, batch)
            if batch.full:
                break
        return batch

    def stop(self) -> None:
        """Close all files: what was not read is for the next run."""
        self._stopped = True
        for key in [*self._files]:
            self._drop(key)

    def _take(self, key: str, file: File, batch: Batch) -> None:
        failed = False
        try:
            for line in file.lines(self.once):
                self._records.add(batch, line, file.position.path)
                if batch.full:
                    # The others come first next time.
                    self._files[key] = self._files.pop(key)
                    break
        except OSError as error:
            self._complain(file.position.path, error)
            failed = True
        if file.changed:
            batch.positions[key] = msgspec.json.encode(file.mark()).decode()
        if failed or (self.once and file.is_read()):
            self._drop(key)

    def _scan(self, first: bool) -> None:
        found = {self._find(path, pattern) for pattern in self._patterns for path in _matches(pattern)}
        if first:
            self._find_renamed()
            self._forget_old()
            for pattern in {*self._patterns} - {file.position.pattern for file in self._files.values()}:
                self._complain(pattern, FileNotFoundError(0, "there is no such file yet"))
            self._skipped = set()
        for key, file in [*self._files.items()]:
            file.rotated = key_at(file.position.path) != key
            if key not in found and file.is_over():
                deleted = file.is_deleted()
                self._drop(key)
                if deleted:
                    self._forget(key)

    def _find(self, path: str, pattern: str) -> str | None:
        """The key of the file, which is opened if it is not open already, or None if there is none to read."""
        try:
            key = key_at(path)
            if key and key not in self._files:
                file = File(path, Position(path, pattern))
                self._files[file.key] = file
                known = self._known.get(file.key) or self._moved(file.key, path)
                if not (known and file.resume(known)) and pattern in self._skipped:
                    file.skip()
                self.unread.discard(path)
        except OSError as error:
            self._complain(path, error)
            return None
        return key

    def _moved(self, key: str, path: str) -> Position | None:
        """The position under another number of the device: after a restart of the machine it may have one."""
        inode = key.partition(":")[2]
        same = (known for key, known in self._known.items() if key.partition(":")[2] == inode and known.path == path)
        return next(same, None)

    def _find_renamed(self) -> None:
        """Open what was renamed since the last run: its inode is still in its directory."""
        sought = {key: known for key, known in self._known.items() if known.pattern in self._patterns}
        for directory in {Path(known.path).resolve().parent for known in sought.values()}:
            for path in directory.iterdir() if directory.is_dir() else ():
                key = key_at(str(path))
                if key in sought and key not in self._files:
                    self._open_renamed(str(path), sought[key])

    def _open_renamed(self, path: str, known: Position) -> None:
        try:
            file = File(path, Position(known.path, known.pattern))
        except OSError as error:
            return self._complain(path, error)
        if file.resume(known):
            self._files[file.key] = file
        else:
            file.close()

    def _forget_old(self) -> None:
        oldest = time.time() - KEPT_SECONDS
        for key in [key for key, known in self._known.items() if known.seen < oldest and key not in self._files]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        self._forgotten[key] = ""
        del self._known[key]

    def _complain(self, path: str, error: OSError) -> None:
        if path not in self.unread:
            self.unread.add(path)
            self._say(f"{path} cannot be read: {error.strerror}")

    def _drop(self, key: str) -> None:
        file = self._files.pop(key)
        file.close()
        self._known[key] = file.mark()


def _matches(pattern: str) -> Iterable[str]:
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    # No Path.glob: it reads patterns otherwise.
    paths = glob.iglob(pattern, recursive=True)  # noqa: PTH207  as above
    return sorted(path for path in paths if not path.endswith(PACKED))
