"""The shipper: sends the lines of a pipe or of files to ingest, each line of a file once, whatever is restarted.

`myapp | python -m functions.edge.ship --service myapp`, or
`python -m functions.edge.ship --service nginx /var/log/nginx/access.log '/var/log/app/*.log'`.

Lines wait in a spool on disk until ingest has them. A pipe cannot be read twice: of what was read from it, what is in
the spool survives.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import os
import re
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from functions.common.config import ConfigError, environment, load, setting
from functions.common.record import LEVEL_ALIASES
from functions.edge.follow import PACKED, Files
from functions.edge.forward import endpoint
from functions.edge.pipe import Pipe
from functions.edge.progress import say
from functions.edge.records import MAX_SERVICE_BYTES, Records
from functions.edge.shipper import Shipper
from functions.edge.spool import DEFAULT_BYTES, Spool, SpoolError

_OPEN_FILES = 65_536
_SIZE = re.compile(r"([0-9]+)([kmg]?)(i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the shipper."""

    ingest_url: str = setting("http://localhost:8081", "Where ingest listens")
    xdg_state_home: str = setting("", "Folder under which the shipper keeps its spools; by default `~/.local/state`")

    def __post_init__(self) -> None:
        endpoint(self.ingest_url)  # for its error


def default_spool(service: str, state: str) -> Path:
    """The folder of a service's spool below the folder `state`, which is used if it is absolute (XDG)."""
    name = quote(service, safe=" ").replace(".", "%2E", service.startswith("."))
    if len(name) > 100:
        name = f"{name[:60]}-{hashlib.blake2b(service.encode(), digest_size=8).hexdigest()}"
    base = Path(state) if state.startswith("/") else Path.home() / ".local/state"
    return base / "torpor" / "ship" / name


def bytes_of(text: str) -> int:
    """A number of bytes, with or without a unit of 1024. Raises ArgumentTypeError."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected bytes, above 0, as 5000000, 500k, 20M or 2GiB")
    return size


def parse(arguments: Sequence[str], config: Config) -> argparse.Namespace:
    """The command's arguments. Ends the program if they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m functions.edge.ship", description="Send lines to ingest.")
    parser.add_argument("files", nargs="*", help="files, or globs in quotes; standard input if there are none")
    parser.add_argument("--service", required=True, help="what writes the lines")
    parser.add_argument("--level", default="INFO", help="of lines that name none (default %(default)s)")
    parser.add_argument("--url", default=config.ingest_url, help="where ingest listens (INGEST_URL; now %(default)s)")
    parser.add_argument("--spool", type=Path, metavar="DIR", help="where lines wait; by default a folder per service")
    parser.add_argument(
        "--spool-bytes",
        type=bytes_of,
        default=DEFAULT_BYTES,
        metavar="N",
        help="so many wait at most, as 500k, 20M or 2G (default 1G); one batch, some 4M, may wait whatever this is",
    )
    parser.add_argument("--from-end", action="store_true", help="of files seen first, only what is written from now on")
    parser.add_argument("--once", action="store_true", help="read the files to their end, deliver, and exit")
    parser.add_argument("--quiet", action="store_true", help="say only what goes wrong")
    options = parser.parse_args(arguments)
    if not 0 < len(options.service.encode(errors="replace")) <= MAX_SERVICE_BYTES:
        parser.error(f"--service has 1 to {MAX_SERVICE_BYTES} bytes")
    if options.level.lower() not in LEVEL_ALIASES:
        parser.error(f"--level {options.level!r} is not known; use TRACE, DEBUG, INFO, WARN, ERROR or FATAL")
    if not options.files and sys.stdin is None:
        parser.error("standard input is closed: name files, or pipe lines into it")
    for name in options.files:
        if name.endswith(PACKED):
            parser.error(f"{name} is packed: unpack it into the pipe")
        if Path(name).is_dir():
            parser.error(f"{name} is a directory: name files, or a glob such as '{name.rstrip('/')}/*.log'")
    try:
        endpoint(options.url, "--url")  # for its error; INGEST_URL was looked at before
        options.spool = options.spool or default_spool(options.service, config.xdg_state_home)
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    return options


async def ship(options: argparse.Namespace, spool: Spool) -> int:
    """Do what the options say; return the exit status."""
    records = Records(options.service, options.level, socket.gethostname())
    source: Pipe | Files
    if options.files:
        known = spool.positions()
        source = Files(options.files, records, known, say, from_end=options.from_end, once=options.once)
    else:
        source = Pipe(records)
        if os.isatty(0):
            say("reading lines from the terminal; Ctrl-D ends them")
    if spool.count and not options.quiet:
        say(f"{spool.count:,} lines of an earlier run are delivered first")
    return await Shipper(source, spool, options.url, options.quiet).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship as the arguments say; return the exit status.

    0 all is well, 1 something was refused, lost or could not be read, 2 it cannot run, 130 lines are left by Ctrl-C.
    """
    logging.getLogger("functions.edge").setLevel("CRITICAL")  # what they say, the person is told here
    logging.getLogger("httpx").setLevel("WARNING")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _OPEN_FILES)), hard))  # each file stays open
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, load(Config, environment()))
        with contextlib.closing(Spool(options.spool / "spool.db", options.spool_bytes)) as spool:
            return asyncio.run(ship(options, spool))
    except (ConfigError, SpoolError) as error:
        hint = "; --spool names another folder" if "in use" in str(error) else ""
        say(f"{error}{hint}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
