"""Every text as every parameter of query and export."""

from __future__ import annotations

import collections
import json
from urllib.parse import quote

from tests.input.case import JSON, OK, Answer, Case, Check
from tests.input.corpus import texts
from tests.input.corpus.strings import NO_TEXT, TEXTS

LOGS, EXPORT = "/api/v1/logs", "/api/v1/logs/export"
READ = frozenset({200, 400})
SINCE = "start_time=-6h"


def get(name: str, path: str, expect: frozenset[int], check: Check | None = None, function: str = "query") -> Case:
    return Case(name, function=function, method="GET", path=path, expect=expect, check=check)


def post(name: str, body: bytes, expect: frozenset[int], check: Check | None = None) -> Case:
    return Case(name, body, JSON, function="query", path=LOGS, expect=expect, check=check)


def _total(expected: int) -> Check:
    def check(answer: Answer) -> str | None:
        page = json.loads(answer.body)
        found = (page["total"], len(page["logs"]))
        return None if found == (expected, expected) else f"found {found} logs, not {expected}"

    return check


def _lines(expected: int) -> Check:
    def check(answer: Answer) -> str | None:
        found = len(answer.body.splitlines())
        return None if found == expected else f"exported {found} logs, not {expected}"

    return check


def _finds(span: str) -> Check:
    def check(answer: Answer) -> str | None:
        if answer.status != 200:
            return None  # there is no word in it
        spans = {log["span_id"] for log in json.loads(answer.body)["logs"]}
        return None if span in spans else f"the log {span}, whose message is the search, is not found"

    return check


def filters() -> list[Case]:
    """Each text as each filter: exactly the logs that hold it are found, by query and by export."""
    stored = [log for case in texts.everywhere() for log in case.logs]
    services = collections.Counter(log.service for log in stored)
    traces = collections.Counter(log.trace_id for log in stored)
    entries = collections.Counter(entry for log in stored for entry in log.metadata)
    cases: list[Case] = []
    for number, text in enumerate(TEXTS):
        name, value = f"{number:03d}", quote(text, safe="")
        own = f"metadata.{value}=key"
        found = entries[text, "key"]
        cases += [
            get(f"{name} service", f"{LOGS}?{SINCE}&service={value}", OK, _total(services[text])),
            get(f"{name} value", f"{LOGS}?{SINCE}&metadata.value={value}", OK, _total(entries["value", text])),
            get(f"{name} key", f"{LOGS}?{SINCE}&{own}", OK, _total(found)),
            get(
                f"{name} search",
                f"{LOGS}?{SINCE}&service=texts&search={value}&limit=10000",
                READ,
                _finds(f"{name}-plain"),
            ),
            get(f"{name} export", f"{EXPORT}?{SINCE}&format=ndjson&{own}", OK, _lines(found), "export"),
            post(
                f"{name} body", json.dumps({"start_time": "-6h", "trace_id": text}).encode(), OK, _total(traces[text])
            ),
        ]
    return cases


PARAMETERS = (
    "start_time",
    "end_time",
    "level",
    "limit",
    "offset",
    "cursor",
    "total",
    "unknown",
    "metadata",
    "metadata.",
    "",
)


def parameters() -> list[Case]:
    """Each text as each parameter that is not compared with logs, and as the name of one."""
    cases: list[Case] = []
    values = (
        [quote(text, safe="") for text in TEXTS]
        + [quote(data) for data in NO_TEXT]
        + ["9" * 400, "-1", "1e3", "0x1", "1.0", "1 "]
    )
    for number, value in enumerate(values):
        for name in PARAMETERS:
            cases.append(
                get(f"{number:03d} {name}", f"{LOGS}?limit=1&{name}={value}".replace("limit=1&limit", "limit"), READ)
            )
        cases.append(get(f"{number:03d} interval", f"{LOGS}/aggregate?interval={value}", READ))
        cases.append(get(f"{number:03d} id", f"{LOGS}/{value}", READ | {404, 307}))
        cases.append(get(f"{number:03d} errors", f"{LOGS}/errors?limit={value}", READ))
        cases.append(get(f"{number:03d} name", f"{LOGS}?limit=1&{value}=x", READ))
        for name in ("format", "compression", "formulas", "start_time", "cursor"):
            cases.append(get(f"{number:03d} export {name}", f"{EXPORT}?{name}={value}", READ, function="export"))
    return cases
