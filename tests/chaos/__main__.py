"""`python -m tests.chaos`: break everything, and count."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.chaos.arena import FUNCTIONS, Arena, arena
from tests.chaos.campaign import Campaign
from tests.chaos.faultpoints import MUTATIONS
from tests.chaos.faults import FAULTS

ALWAYS = (
    "none",
    "kill-ingest",
    "kill-index",
    "kill-source",
    "kill-broker",
    "crash-after-produce",
    "crash-after-insert",
    "poison",
)
LAST = "redeliver"
_DRAWN = 4
_SHORT_SECONDS, _LONG_SECONDS = 3.0, 30.0
_GIVEN_UP_SECONDS = 10.0
"""What a mutation has lost is not waited for any longer."""
# The faults that show each mutation.
SHOWN_BY = {"no-final": "client-resend", "no-dedupe": "client-resend", "commit-first": "kill-index"}


def main() -> None:
    """The command. Without arguments: a short selection that the seed draws, and the mutations."""
    long = os.environ.get("CAMPAIGN") == "long"
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--faults", help="names, separated by commas; known: " + " ".join(FAULTS))
    parser.add_argument(
        "--seconds", type=float, default=_LONG_SECONDS if long else _SHORT_SECONDS, help="of each fault"
    )
    parser.add_argument("--seed", default=os.environ.get("SEED") or str(random.SystemRandom().randrange(1, 1_000_000)))
    parser.add_argument("--mutation", choices=tuple(MUTATIONS), help="take this guard away: the oracle must fail")
    parser.add_argument("--mutations", action="store_true", help="check that every mutation makes the oracle fail")
    parser.add_argument("--keep", type=Path, help="folder to leave ledger and logs in; it must not exist")
    options = parser.parse_args()
    names = options.faults.split(",") if options.faults else []
    if unknown := set(names) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="torpor-chaos-") as temporary:
        directory: Path = options.keep or Path(temporary)
        directory.mkdir(exist_ok=options.keep is None)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sys.exit(not runner.run(run(options, names, directory, long=long)))


async def run(options: argparse.Namespace, names: list[str], directory: Path, *, long: bool) -> bool:
    """Run what the options ask for; say whether all went as it should."""
    started = time.monotonic()
    seed: str = options.seed
    task = asyncio.current_task()
    assert task is not None
    # Whoever ends the campaign ends its processes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with arena(directory, seed, short=not long) as made:
        if made.why_tansu:
            print(f"on the embedded broker, which forgets when it is killed: {made.why_tansu}", flush=True)
        chosen = [name for name in names or selection(seed, long=long) if can(made, name)]
        print(f"seed {seed}: {', '.join(chosen)}; ready after {time.monotonic() - started:.0f} s", flush=True)
        good = True
        if options.mutation:
            good = await mutated(made, options.mutation, seed, options.seconds)
            print(f"{options.mutation}: {'NOT NOTICED' if good else 'noticed'}", flush=True)
        elif names or not options.mutations:
            good = await Campaign(made, seed, seconds=options.seconds, long=long).run(chosen)
        if options.mutations or not (names or options.mutation):
            good = await all_mutations(made, seed, options.seconds) and good
    print(f"{'passed' if good else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
    return good


def selection(seed: str, *, long: bool) -> list[str]:
    """The faults of a campaign, the replay of the whole topic last."""
    others = [name for name in FAULTS if name not in ALWAYS and name != LAST]
    drawn = others if long else sorted(random.Random(f"{seed}/selection").sample(others, _DRAWN))
    return [*ALWAYS, *drawn, LAST]


def can(made: Arena, name: str) -> bool:
    """Whether the fault can be done with this broker; says so if not."""
    possible = not (made.why_tansu and FAULTS[name].needs_apache)
    if not possible:
        print(f"{name} is left out: it needs Apache Kafka", flush=True)
    return possible


async def mutated(made: Arena, mutation: str, seed: str, seconds: float) -> bool:
    """Run one fault with a guard taken away; say whether the oracle is content."""
    for name in FUNCTIONS:
        await made.supervisor.replace(
            name, ("tests.chaos.faultpoints", name, "none", "0", "--mutation", mutation), for_good=True
        )
    campaign = Campaign(made, seed, seconds=seconds, long=False, label=f"{mutation}-", drain=_GIVEN_UP_SECONDS)
    # A round that is void for another reason has noticed nothing.
    return not (await campaign.round(SHOWN_BY[mutation])).figures.broken()


async def all_mutations(made: Arena, seed: str, seconds: float) -> bool:
    """Whether the oracle notices every mutation."""
    noticed = True
    for mutation in MUTATIONS:
        print(f"mutation {mutation}: the next line must fail", flush=True)
        if await mutated(made, mutation, seed, seconds):
            noticed = False
            print(f"{mutation}: NOT NOTICED", flush=True)
    return noticed


if __name__ == "__main__":
    main()
