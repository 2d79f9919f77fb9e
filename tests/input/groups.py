"""The classes in their order."""

from tests.input.case import Group
from tests.input.corpus import documents, texts

GROUPS = [
    Group("json bodies", documents.bodies),
    Group("json arrays", documents.arrays),
    Group("json lines", documents.lines),
    Group("json event data", documents.event_data),
    Group("texts everywhere", texts.everywhere),
    Group("no text", texts.no_text),
    Group("encodings", texts.encodings),
    Group("event attributes", texts.event_attributes),
    Group("headers", texts.headers),
]
LONG_GROUPS: list[Group] = []
