"""Every error says by its class what a caller may do about it."""

import re
from collections.abc import Iterator

import pytest

from functions.common import errors
from functions.common.errors import BadRequest, BadRows, MethodNotAllowed, Permanent, TorporError, Transient


def below(kind: type[TorporError]) -> Iterator[type[TorporError]]:
    # Those of other test modules and of the functions are not part of the tree.
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from (child, *below(child))


def test_the_tree_in_the_docstring_has_every_class_with_its_status() -> None:
    told = re.findall(r"[├└]── (\w+) +(\d{3})", errors.__doc__ or "")
    leaves = {(kind.__name__, str(kind.status)) for kind in below(Permanent)}
    assert set(told) == leaves
    assert {kind.__name__ for kind in below(TorporError)} <= set(re.findall(r"\w+", errors.__doc__ or ""))


@pytest.mark.parametrize("kind", [*below(Permanent)])
def test_what_always_fails_is_a_fault_of_the_caller(kind: type[Permanent]) -> None:
    assert 400 <= kind.status < 500
    assert kind.title


@pytest.mark.parametrize("kind", [Transient, *below(Transient)])
def test_what_may_work_later_says_when(kind: type[Transient]) -> None:
    assert kind.status == 503
    assert kind.retry_after > 0


def test_kafka_source_retries_none_of_what_index_refuses_for_ever() -> None:
    retried = {404, 408, 409, 429}
    refusals = (errors.NotOurs, errors.BadRows, errors.TooLarge, errors.MethodNotAllowed)
    assert not retried & {kind.status for kind in refusals}


def test_details_default_to_none() -> None:
    assert BadRequest("x").fields == {}
    assert BadRows("x").code == 0
    assert MethodNotAllowed("x").allow == ""
