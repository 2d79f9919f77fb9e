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

_HEAD = f"{'class':<24} {'inputs':>6}  {'2xx':>6} {'4xx':>6} {'5xx':>4} {'none':>5} {'stored':>7} {'MiB':>5} {'s':>6} {'failures':>8}"
_SHOWN = 20


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
    count = result.statuses
    print(
        f"{result.name:<24} {result.inputs:>6}  {count['2xx']:>6} {count['4xx']:>6} {count['5xx']:>4} {count['none']:>5} "
        f"{result.stored:>7} {result.grown >> 20:>5} {result.seconds:>6.1f} {len(result.faults):>8}",
        flush=True,
    )


def main() -> int:
    """Print a line a class, then every failure so that it can be repeated."""
    wanted, only = [*sys.argv[1:], "", ""][:2]
    began = time.monotonic()
    print(_HEAD, flush=True)
    results: list[Result] = []
    for groups, settings in ((GROUPS, {}), (LONG_GROUPS, {"RETENTION_DAYS": "400"})):
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
