"""The spool: batches of logs wait on disk until ingest has them.

One SQLite file (write-ahead log, so that a process that is killed at any moment leaves whole transactions behind).
A batch and the readers' positions behind it are stored together: after a restart each line is in the spool or still to
be read, never both and never neither. A power cut is another matter: commits are not flushed to the disk one by one
(synchronous=NORMAL), so the transactions of the last moments may be undone, in order and whole. What was taken then is
gone, a batch that was dropped is sent once more under its key, and what a reader reads again has a new key.

A batch can be dropped though the disk is full, or nothing would ever leave it. What is committed to the log must find
room in the database, too, so that is taken before the commit. When the disk is full, a rollback journal takes the
log's place until the spool is empty: it needs room for a few pages, not for the batch a second time. For those pages
a ballast lies beside the database.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from functions.common.identity import batch_id

DEFAULT_BYTES = 1024**3
"""How much waits at most, if nobody says otherwise: 1 GiB."""

_PAGE_BYTES = 16384
_PRAGMAS = (
    f"PRAGMA page_size = {_PAGE_BYTES}",
    "PRAGMA locking_mode = EXCLUSIVE",  # before the journal mode: then there is no shared memory file either
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA secure_delete = OFF",
    "PRAGMA wal_autocheckpoint = 250",
)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY, key TEXT UNIQUE, count INTEGER, body BLOB)",
    "CREATE TABLE IF NOT EXISTS positions (name TEXT PRIMARY KEY, position TEXT) WITHOUT ROWID",
)
_TOTALS = "SELECT count(*), coalesce(sum(count), 0), coalesce(sum(length(body)), 0) FROM batches"
_DROP = "DELETE FROM batches WHERE key = ? RETURNING count, length(body)"
_SHRINK_BYTES = 64 * 1024 * 1024
"""An empty spool whose file was larger gives the space back."""
_BALLAST_BYTES = 16 * _PAGE_BYTES
"""More than a journal of the pages that a drop changes."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SpoolError(Exception):
    """The spool's file cannot be used; the text says which and why."""


class Full(SpoolError):
    """The spool, or the disk, holds as much as it may: try again when a batch was dropped."""


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Logs as JSON lines, how many they are, and the key that makes them one batch however often they are sent."""

    key: str
    body: bytes
    count: int


class Spool:
    """A queue of batches on disk, and named positions. One process holds it, and one thread calls it."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open or make the file. Raises SpoolError if it cannot be used or another process has it open."""
        self.path = path
        self.max_bytes = max_bytes
        self._ballast = path.with_name(f"{path.name}-ballast")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{path} cannot be opened: {error}") from error
        try:
            for statement in _PRAGMAS:
                self._db.execute(statement)
            with self._transaction():
                for statement in _TABLES:
                    self._db.execute(statement)
            batches, count, size = self._db.execute(_TOTALS).fetchone()
            # Not before the lock is ours, nor closed before it is given up: to close a file lets go of all its locks.
            self._file = path.open("r+b", buffering=0)
        except (OSError, SpoolError, sqlite3.Error) as error:
            self._db.close()
            if "locked" in str(error):
                raise SpoolError(f"{path} is in use by another process") from error
            raise SpoolError(f"{path} cannot be used as a spool: {error}") from error
        self._batches: int = batches
        self._count: int = count
        self._size: int = size
        self._journaled = False
        self._load()

    @property
    def size(self) -> int:
        """Bytes of the batches that wait."""
        return self._size

    @property
    def count(self) -> int:
        """Logs that wait."""
        return self._count

    @property
    def batches(self) -> int:
        """Batches that wait."""
        return self._batches

    def put(self, body: bytes, count: int, positions: Mapping[str, str] = {}) -> str:
        """Store a batch of `count` logs under a fresh key, which is returned, and the positions: both or neither.

        With an empty body only the positions are stored; an empty position is forgotten. Raises Full if there is no
        room, though an empty spool takes any batch, and SpoolError if the disk fails.
        """
        if body and self._batches and self._size + len(body) > self.max_bytes:
            raise Full(f"{self.path} holds {self._size} bytes; the limit is {self.max_bytes}")
        key = batch_id()
        try:
            self._put(key, body, count, positions)
        except Full:
            if self._journaled:
                raise
            self._journal()
            self._put(key, body, count, positions)
        if body:
            self._add(1, count, len(body))
        return key

    def head(self) -> Batch | None:
        """The oldest batch, or None if none waits. Raises SpoolError if the disk fails."""
        try:
            row = self._db.execute("SELECT key, body, count FROM batches ORDER BY number LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise SpoolError(f"{self.path} cannot be read: {error}") from error
        return Batch(*row) if row else None

    def drop(self, key: str) -> None:
        """Forget a batch; nothing happens if there is none of this key. Raises SpoolError if the disk fails."""
        try:
            rows = self._delete(key)
        except Full:
            with contextlib.suppress(OSError):
                self._ballast.unlink()
            self._journal()
            rows = self._delete(key)
        for count, size in rows:
            self._add(-1, -count, -size)
        if not self._batches:
            self._shrink()
        self._load()

    def positions(self) -> dict[str, str]:
        """All positions by name. Raises SpoolError if the disk fails."""
        try:
            return dict(self._db.execute("SELECT name, position FROM positions"))
        except sqlite3.Error as error:
            raise SpoolError(f"{self.path} cannot be read: {error}") from error

    def close(self) -> None:
        """Let go of the file; what waits in it stays."""
        self._db.close()
        self._file.close()

    def _put(self, key: str, body: bytes, count: int, positions: Mapping[str, str]) -> None:
        with self._transaction():
            if body:
                self._db.execute("INSERT INTO batches (key, count, body) VALUES (?, ?, ?)", (key, count, body))
            self._db.executemany("REPLACE INTO positions VALUES (?, ?)", positions.items())
            if "" in positions.values():
                self._db.execute("DELETE FROM positions WHERE position = ''")
            if not self._journaled:
                self._reserve()

    def _delete(self, key: str) -> list[tuple[int, int]]:
        with self._transaction():
            return self._db.execute(_DROP, (key,)).fetchall()

    def _reserve(self) -> None:
        """Let the database have the room that its pages in the log will need."""
        needed = self._db.execute("PRAGMA page_count").fetchone()[0] * _PAGE_BYTES
        size = os.fstat(self._file.fileno()).st_size
        while size < needed:
            size += os.pwrite(self._file.fileno(), bytes(needed - size), size)

    def _journal(self) -> None:
        """Give up the log, whose room is then free, for a journal."""
        with self._told():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._journaled = self._db.execute("PRAGMA journal_mode = PERSIST").fetchone() == ("persist",)

    def _load(self) -> None:
        """Have as much ballast as there is room for."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            # Random, so that no file system packs it.
            file.write(os.urandom(max(_BALLAST_BYTES - file.tell(), 0)))

    def _add(self, batches: int, count: int, size: int) -> None:
        self._batches += batches
        self._count += count
        self._size += size

    def _shrink(self) -> None:
        # Costs little, as nothing is left to copy. A failure leaves the file as large as it was.
        with contextlib.suppress(sqlite3.Error, OSError):
            if self._journaled:
                self._journaled = self._db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",)
            if self.path.stat().st_size > _SHRINK_BYTES:
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._db.execute("BEGIN EXCLUSIVE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what goes wrong as an error of the spool."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            code = getattr(error, "sqlite_errorcode", 0)  # none if the file is closed
            if code == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in _NO_ROOM:
                raise Full(f"the disk of {self.path} is full: free some space") from error
            raise SpoolError(f"{self.path} cannot be written: {error}") from error
