"""The classes in their order: those that search for texts come right after them, while the store is small."""

import functools

from tests.input.case import Group
from tests.input.corpus import (
    abuse,
    documents,
    events,
    files,
    heads,
    packed,
    rows,
    searches,
    shapes,
    texts,
    times,
    wire,
)

GROUPS = [
    Group("json bodies", documents.bodies),
    Group("json arrays", documents.arrays),
    Group("json lines", documents.lines),
    Group("json event data", documents.event_data),
    Group("texts everywhere", texts.everywhere),
    Group("filters", searches.filters, needs="texts everywhere"),
    Group("parameters", searches.parameters),
    Group("no text", texts.no_text),
    Group("encodings", texts.encodings),
    Group("event attributes", texts.event_attributes),
    Group("headers", texts.headers),
    Group("bombs", packed.bombs),
    Group("broken packages", packed.broken),
    Group("content encodings", packed.encodings),
    Group("sizes", shapes.sizes),
    Group("numbers", shapes.numbers),
    Group("types", shapes.types),
    Group("content types", shapes.content_types),
    Group("times", times.all_times),
    Group("http bodies", wire.bodies),
    Group("http heads", heads.heads),
    Group("events to ingest", events.to_ingest),
    Group("events to index", rows.to_index),
    Group("formulas", files.formulas),
    Group("files", lambda: files.Files().cases(), needs="formulas", parallel=1),
    Group("searches", abuse.abuse),
    Group("exports at once", abuse.exports, parallel=40),
]
LONG_GROUPS = [Group("400 days", functools.partial(shapes.many_days, 400))]
"""Run against a Torpor that keeps logs for 400 days."""
