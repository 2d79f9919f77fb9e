"""`python -m tests.input [CLASS [INPUT]]`: everything, one class, or one input of it again."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.input.case import Group
from tests.input.groups import GROUPS, LONG_GROUPS
from tests.input.run import Result, Runner
from tests.support.local import LocalTorpor

_ROW = "{:<20} {:>6}  {:>6} {:>6} {:>4} {:>5} {:>7} {:>5} {:>6} {:>8}"
_HEAD = _ROW.format("class", "inputs", "2xx", "4xx", "5xx", "none", "stored", "MiB", "s", "failures")


async def run(groups: list[Group], only: str, settings: Mapping[str, str]) -> list[Result]:
    """Start a Torpor and run the classes against it."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="torpor-input-") as directory:
        torpor = LocalTorpor(Path(directory), {"LOG_LEVEL": "INFO", **settings})
        torpor.start()
        runner = Runner(torpor)
        try:
            for group in groups:
                results.append(await runner.run(group, only))
                show(results[-1])
                if not runner.alive():
                    results[-1].faults.append("the process ended")
                    break
        finally:
            await runner.close()
            if runner.alive() and torpor.stop():
                results[-1].faults.append("it did not stop in good order")
    return results


def show(result: Result) -> None:
    """Print the line of a class."""
    statuses = (result.statuses[kind] for kind in ("2xx", "4xx", "5xx", "none"))
    figures = (result.stored, result.grown >> 20, f"{result.seconds:.1f}", len(result.faults))
    print(_ROW.format(result.name, result.inputs, *statuses, *figures), flush=True)


def main() -> int:
    """Print a line a class, then every failure so that it can be repeated."""
    wanted, only = [*sys.argv[1:], "", ""][:2]
    began = time.monotonic()
    print(_HEAD, flush=True)
    results: list[Result] = []
    runs: tuple[tuple[list[Group], dict[str, str]], ...] = ((GROUPS, {}), (LONG_GROUPS, {"RETENTION_DAYS": "400"}))
    for groups, settings in runs:
        needed = {group.needs for group in groups if group.name == wanted} | {wanted}
        chosen = [group for group in groups if not wanted or group.name in needed]
        if chosen:
            results += asyncio.run(run(chosen, only, settings))
    total = Result("total", sum(result.inputs for result in results), seconds=time.monotonic() - began)
    for result in results:
        total.statuses.update(result.statuses)
        total.stored += result.stored
        total.faults += [f"{result.name}/{fault}" for fault in result.faults]
    show(total)
    for fault in total.faults:
        print(f"  {fault}")
    print(f"{len(total.faults)} failures in {total.inputs} inputs")
    return 1 if total.faults or not total.inputs else 0


if __name__ == "__main__":
    sys.exit(main())
