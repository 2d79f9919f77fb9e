"""Group commit: each item is written once, in groups within their bounds, and its caller hears what became of it."""

import asyncio
import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.commit import GroupCommit
from functions.common.errors import Overloaded

MAX_SIZE, MAX_COUNT = 20, 6


class WriteError(Exception):
    """What a write raises when it is told to fail."""


@dataclasses.dataclass
class Writer:
    """Keeps the groups it is given; `gate` holds writes back."""

    groups: list[list[str]] = dataclasses.field(default_factory=list)
    written: list[str] = dataclasses.field(default_factory=list)
    gate: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    failure: BaseException | None = None

    async def __call__(self, items: list[str]) -> None:
        self.groups.append(list(items))
        failure = self.failure
        await self.gate.wait()
        if failure:
            raise failure
        self.written += items


def commit_to(writer: Writer, writers: int = 1, max_waiting: int = 1000) -> GroupCommit[str]:
    return GroupCommit(writer, max_size=MAX_SIZE, max_count=MAX_COUNT, writers=writers, max_waiting=max_waiting)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@dataclasses.dataclass(frozen=True)
class Item:
    number: int
    size: int
    count: int
    key: str


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of add, or of add_all; the caller goes away after `patience` turns of the loop."""

    items: list[Item]
    pause: int
    patience: int | None


@st.composite
def call_lists(draw: st.DrawFn) -> list[Call]:
    calls, number = [], 0
    for _ in range(draw(st.integers(1, 12))):
        items, key = [], draw(st.sampled_from("ab"))
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 5]))):
            items.append(Item(number, draw(st.integers(1, MAX_SIZE + 5)), draw(st.integers(1, MAX_COUNT + 1)), key))
            number += 1
        calls.append(Call(items, draw(st.integers(0, 3)), draw(st.none() | st.integers(0, 4))))
    return calls


@dataclasses.dataclass
class Story:
    """Calls in the order that they come, and what became of them."""

    fails: list[bool]
    turns_of_write: list[int]
    groups: list[list[Item]] = dataclasses.field(default_factory=list)
    results: list[BaseException | None] = dataclasses.field(default_factory=list)
    running: int = 0
    peak: int = 0

    async def write(self, items: list[Item]) -> None:
        number = len(self.groups)
        self.groups.append(list(items))
        self.running += 1
        self.peak = max(self.peak, self.running)
        await turns(self.turns_of_write[number % len(self.turns_of_write)])
        self.running -= 1
        if self.has_failed(number):
            raise WriteError(number)

    def has_failed(self, group: int) -> bool:
        return self.fails[group % len(self.fails)]

    async def play(self, calls: list[Call], writers: int) -> None:
        commit = GroupCommit(self.write, max_size=MAX_SIZE, max_count=MAX_COUNT, writers=writers, max_waiting=10**6)

        async def caller(call: Call) -> None:
            one = call.items[0]
            if len(call.items) == 1:
                await commit.add(one, size=one.size, count=one.count, key=one.key)
            else:
                await commit.add_all([(item, item.size, item.count) for item in call.items], key=one.key)

        tasks = []
        for call in calls:
            tasks.append(asyncio.create_task(caller(call)))
            await turns(call.pause)
            if call.patience is not None:
                await turns(call.patience)
                tasks[-1].cancel()
        self.results += await asyncio.gather(*tasks, return_exceptions=True)
        await commit.drain()
        assert commit.waiting == 0


def check_group(group: list[Item]) -> None:
    numbers = [item.number for item in group]
    assert len({item.key for item in group}) == 1
    assert numbers == sorted(numbers)
    within = sum(item.size for item in group) <= MAX_SIZE and sum(item.count for item in group) <= MAX_COUNT
    assert within or len(group) == 1


def check_caller(call: Call, result: BaseException | None, story: Story) -> None:
    places = [number for number, group in enumerate(story.groups) for item in group if item in call.items]
    if isinstance(result, asyncio.CancelledError):
        assert call.patience is not None
        assert len(places) in (0, len(call.items))
        return
    assert len(places) == len(call.items)
    if failed := [number for number in sorted(places) if story.has_failed(number)]:
        assert isinstance(result, WriteError) and result.args[0] in failed
    else:
        assert result is None


@settings(deadline=None, max_examples=100)
@given(
    call_lists(),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_whatever_happens_an_item_is_written_once_and_its_caller_hears_of_it(
    calls: list[Call], fails: list[bool], turns_of_write: list[int], writers: int
) -> None:
    story = Story(fails, turns_of_write)
    asyncio.run(story.play(calls, writers))
    assert max(Counter(item.number for group in story.groups for item in group).values(), default=0) <= 1
    assert story.peak <= writers
    for group in story.groups:
        check_group(group)
    for call, result in zip(calls, story.results, strict=True):
        check_caller(call, result, story)


async def test_a_lone_item_is_written_at_once() -> None:
    writer = Writer()
    commit = commit_to(writer)
    adding = asyncio.create_task(commit.add("a", size=1, count=1))
    await turns(3)  # no time passes: the call, the start of the group, the write
    assert writer.groups == [["a"]]
    writer.gate.set()
    await adding


async def test_what_comes_together_is_written_together() -> None:
    writer = Writer()
    writer.gate.set()
    commit = commit_to(writer)
    await asyncio.gather(*(commit.add(item, size=1, count=1) for item in "abc"))
    assert writer.groups == [["a", "b", "c"]]


async def test_while_a_group_is_written_the_next_one_forms() -> None:
    writer = Writer()
    commit = commit_to(writer)
    adding = [asyncio.create_task(commit.add("a", size=1, count=1))]
    await turns()
    for item in "bcd":
        adding.append(asyncio.create_task(commit.add(item, size=1, count=1)))
        await turns()
    assert writer.groups == [["a"]]
    writer.gate.set()
    await asyncio.gather(*adding)
    assert writer.groups == [["a"], ["b", "c", "d"]]


async def test_a_caller_returns_only_when_its_group_is_written() -> None:
    writer = Writer()
    adding = asyncio.create_task(commit_to(writer).add("a", size=1, count=1))
    await turns(20)
    assert not adding.done()
    writer.gate.set()
    await adding
    assert writer.written == ["a"]


async def test_an_item_over_the_bounds_goes_alone() -> None:
    writer = Writer()
    writer.gate.set()
    commit = commit_to(writer)
    sizes = {"a": 1, "big": MAX_SIZE + 1, "b": 1}
    await asyncio.gather(*(commit.add(item, size=size, count=1) for item, size in sizes.items()))
    assert sorted(writer.groups) == [["a"], ["b"], ["big"]]


async def test_keys_do_not_share_a_group() -> None:
    writer = Writer()
    writer.gate.set()
    commit = commit_to(writer)
    await asyncio.gather(*(commit.add(item, size=1, count=1, key=item[0]) for item in ("a1", "b1", "a2", "b2")))
    assert sorted(writer.groups) == [["a1", "a2"], ["b1", "b2"]]


async def test_a_failed_write_fails_for_all_of_its_group_and_nobody_else() -> None:
    writer = Writer(failure=WriteError("no"))
    commit = commit_to(writer)
    first = asyncio.create_task(commit.add("a", size=1, count=1))
    await turns()
    others = [asyncio.create_task(commit.add(item, size=1, count=1)) for item in "bc"]
    await turns()
    writer.failure = None
    writer.gate.set()
    with pytest.raises(WriteError):
        await first
    await asyncio.gather(*others)
    assert writer.written == ["b", "c"]


async def test_a_caller_that_goes_away_does_not_stop_the_write() -> None:
    writer = Writer()
    commit = commit_to(writer)
    gone, stays = (asyncio.create_task(commit.add(item, size=1, count=1)) for item in "ab")
    await turns()
    gone.cancel()
    await turns()
    writer.gate.set()
    await stays
    assert gone.cancelled()
    assert writer.written == ["a", "b"]


async def test_a_write_that_fails_after_all_callers_went_away_disturbs_nobody() -> None:
    writer = Writer(failure=WriteError("nobody hears it"))
    commit = commit_to(writer)
    gone = asyncio.create_task(commit.add("a", size=1, count=1))
    await turns()
    gone.cancel()
    writer.gate.set()
    await commit.drain()
    assert commit.waiting == 0


async def test_a_cancelled_write_is_heard_of() -> None:
    writer = Writer(failure=asyncio.CancelledError())
    writer.gate.set()
    adding = asyncio.create_task(commit_to(writer).add("a", size=1, count=1))
    with pytest.raises(asyncio.CancelledError):
        await adding


async def test_too_many_waiting_bytes_are_refused_until_they_are_written() -> None:
    writer = Writer()
    commit = commit_to(writer, max_waiting=10)
    adding = asyncio.create_task(commit.add("a", size=6, count=1))
    await turns()
    with pytest.raises(Overloaded):
        await commit.add("b", size=5, count=1)
    fits = asyncio.create_task(commit.add("c", size=4, count=1))
    await turns()
    writer.gate.set()
    await asyncio.gather(adding, fits)
    await commit.add("b", size=5, count=1)
    assert writer.written == ["a", "c", "b"]


async def test_what_comes_alone_is_never_too_much() -> None:
    writer = Writer()
    writer.gate.set()
    commit = commit_to(writer, max_waiting=10)
    await commit.add("a", size=11, count=1)
    await commit.add_all([("b", 8, 1), ("c", 8, 1)])
    assert writer.written == ["a", "b", "c"]


async def test_many_items_are_admitted_together_or_not_at_all() -> None:
    writer = Writer()
    commit = commit_to(writer, max_waiting=10)
    adding = asyncio.create_task(commit.add("a", size=1, count=1))
    await turns()
    with pytest.raises(Overloaded):
        await commit.add_all([("b", 5, 1), ("c", 5, 1)])
    writer.gate.set()
    await adding
    await commit.drain()
    assert writer.written == ["a"]


async def test_many_items_fail_only_after_every_write_has_ended() -> None:
    writer = Writer(failure=WriteError("no"))
    commit = commit_to(writer, writers=2)
    adding = asyncio.create_task(commit.add_all([("a", MAX_SIZE, 1), ("b", MAX_SIZE, 1), ("c", MAX_SIZE, 1)]))
    await turns()
    assert writer.groups == [["a"], ["b"]]
    writer.gate.set()
    with pytest.raises(WriteError):
        await adding
    assert writer.groups == [["a"], ["b"], ["c"]]


async def test_no_items_are_written_at_once() -> None:
    writer = Writer()
    await commit_to(writer).add_all([])
    assert writer.groups == []


async def test_draining_waits_for_all_that_was_added() -> None:
    writer = Writer()
    commit = commit_to(writer)
    adding = [asyncio.create_task(commit.add(item, size=MAX_SIZE, count=1)) for item in "abc"]
    await turns()
    draining = asyncio.create_task(commit.drain())
    await turns()
    assert not draining.done()
    writer.gate.set()
    await draining
    assert writer.written == ["a", "b", "c"]
    await asyncio.gather(*adding)


async def test_draining_nothing_ends_at_once() -> None:
    await commit_to(Writer()).drain()
