"""When two logs are the same log."""

import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.errors import BadRequest
from functions.common.identity import MAX_RECORDS, NUMBER_BITS, batch_id, log_id, of_batch, of_id, parse_log_id

quick = settings(deadline=None, max_examples=60)
texts = st.text(max_size=20)


def test_a_batch_id_is_a_uuid_of_version_7() -> None:
    made = [uuid.UUID(batch_id()) for _ in range(200)]
    assert {one.version for one in made} == {7}
    assert {one.variant for one in made} == {uuid.RFC_4122}
    assert len(set(made)) == 200


def test_batch_ids_made_later_sort_later(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1_769_860_800_000, 1_769_860_800_001, 1_999_999_999_999):
        monkeypatch.setattr(time, "time_ns", lambda now=milliseconds: now * 1_000_000 + 5)
        made.append(batch_id())
        assert uuid.UUID(made[-1]).int >> 80 == milliseconds
    assert made == sorted(made)


def test_identities_are_the_same_in_every_release() -> None:
    # A changed hash would make new logs of those that clients send again after an upgrade.
    assert of_id("default", "order-1") == 13_175_868_688_424_917_332
    assert of_batch("default", "batch-1") == 9_989_991_009_587_560_448


@quick
@given(texts, texts, texts, texts)
def test_an_id_is_one_log_of_one_tenant(tenant: str, record: str, other_tenant: str, other_record: str) -> None:
    same = (tenant, record) == (other_tenant, other_record)
    assert (of_id(tenant, record) == of_id(other_tenant, other_record)) is same


@pytest.mark.parametrize(
    ("one", "other"), [(("a", "b:c"), ("a:b", "c")), (("a", ":id:b"), ("a:id:", "b")), (("", "x"), ("x", ""))]
)
def test_tenant_and_id_are_not_run_together(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert of_id(*one) != of_id(*other)


@quick
@given(texts, texts)
def test_an_id_is_never_a_batch(tenant: str, text: str) -> None:
    assert of_id(tenant, text) >> NUMBER_BITS != of_batch(tenant, text) >> NUMBER_BITS


@quick
@given(texts, texts, st.lists(st.integers(0, MAX_RECORDS - 1), unique=True))
def test_numbers_of_a_batch_never_collide_and_share_their_upper_bits(
    tenant: str, batch: str, numbers: list[int]
) -> None:
    base = of_batch(tenant, batch)
    made = [base + number for number in numbers]
    assert len(set(made)) == len(numbers)
    assert {one >> NUMBER_BITS for one in made} <= {base >> NUMBER_BITS}
    assert all(one < 1 << 64 for one in made)


@quick
@given(texts, texts, texts)
def test_a_batch_is_another_for_another_tenant(batch: str, tenant: str, other: str) -> None:
    assert (of_batch(tenant, batch) == of_batch(other, batch)) is (tenant == other)


@quick
@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 64) - 1))
def test_a_log_id_reads_back(timestamp: int, dedupe: int) -> None:
    assert parse_log_id(log_id(timestamp, dedupe)) == (timestamp, dedupe)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1769860800000000000",
        "1769860800000000000-abc",
        "1769860800000000000-ABCDEF0123456789",
        "-1-0000000000000001",
        "1-00000000000000001",
        "9223372036854775808-0000000000000001",
        "99999999999999999999-0000000000000001",
        "١-0000000000000001",
        "1-0000000000000001\n",
    ],
)
def test_what_is_no_log_id_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_log_id(text)
    assert "id" in caught.value.fields
