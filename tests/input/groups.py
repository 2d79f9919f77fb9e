"""The classes in their order."""

from tests.input.case import Group
from tests.input.corpus import documents

GROUPS = [
    Group("json bodies", documents.bodies),
    Group("json arrays", documents.arrays),
    Group("json lines", documents.lines),
    Group("json event data", documents.event_data),
]
LONG_GROUPS: list[Group] = []
