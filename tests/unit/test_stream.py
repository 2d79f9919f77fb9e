"""Streams of messages: order, groups, how much is read ahead, errors, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.ingest.rpc import stream
from functions.ingest.rpc.stream import GROUP_BYTES, GROUP_MESSAGES, in_turn, together


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """No task outlives the stream, and no error goes unheard: asyncio would tell of it when the task is collected."""
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["message"]))
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
    assert heard == []


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Source:
    """Messages that come when the test says so; `read` counts those that were taken."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self.read = 0

    def send(self, *messages: bytes | BaseException | None) -> None:
        """Let these come; None ends the stream, and an exception breaks it."""
        for message in messages:
            self._queue.put_nowait(message)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        message = await self._queue.get()
        if message is None:
            raise StopAsyncIteration
        if isinstance(message, BaseException):
            raise message
        self.read += 1
        return message


class Work:
    """Keeps what it is given, and goes on when the test lets it."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.gate = asyncio.Event()
        self.failure: Exception | None = None
        self.running = 0

    async def __call__(self, group: list[bytes]) -> None:
        self.groups.append(group)
        self.running += 1
        try:
            await self.gate.wait()
            if self.failure:
                raise self.failure
        finally:
            await turns(3)  # as what is cancelled may need some time to let go
            self.running -= 1


async def collect(answers: AsyncIterator[bytes], seen: list[bytes]) -> None:
    async for answer in answers:
        seen.append(answer)


async def arriving(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


# together


async def test_what_arrives_while_work_is_under_way_is_one_group() -> None:
    source, work = Source(), Work()
    task = asyncio.create_task(together(source, work))
    source.send(b"1")
    await turns()
    source.send(b"2", b"3", b"4", None)
    await turns()
    assert work.groups == [[b"1"]]
    work.gate.set()
    await task
    assert work.groups == [[b"1"], [b"2", b"3", b"4"]]


async def test_a_message_is_worked_on_without_waiting_for_the_next() -> None:
    source, work = Source(), Work()
    work.gate.set()
    task = asyncio.create_task(together(source, work))
    for number in range(5):
        source.send(b"%d" % number)
        await turns()
        assert work.groups[-1] == [b"%d" % number]
    source.send(None)
    await task
    assert len(work.groups) == 5


async def test_a_stream_without_messages_is_no_work() -> None:
    work = Work()
    await together(arriving([]), work)
    assert work.groups == []


@pytest.mark.parametrize(("message", "limit"), [(b"", GROUP_MESSAGES), (bytes(GROUP_BYTES // 4), 4)])
async def test_reading_pauses_while_a_full_group_waits(message: bytes, limit: int) -> None:
    source, work = Source(), Work()
    source.send(*[message] * 5 * limit, None)
    task = asyncio.create_task(together(source, work))
    await turns(10 * limit)
    under_way = len(work.groups[0])
    assert source.read == under_way + limit
    work.gate.set()
    await task
    assert source.read == sum(map(len, work.groups)) == 5 * limit
    assert max(map(len, work.groups)) == limit


@given(st.lists(st.binary(max_size=4)), st.lists(st.integers(0, 3)))
@settings(max_examples=200, deadline=None)
def test_every_message_is_worked_on_once_and_in_order(messages: list[bytes], delays: list[int]) -> None:
    done: list[bytes] = []

    async def slowly() -> AsyncIterator[bytes]:
        for number, message in enumerate(messages):
            await turns(delays[number % len(delays)] if delays else 0)
            yield message

    async def work(group: list[bytes]) -> None:
        assert group
        await turns(delays[len(done) % len(delays)] if delays else 0)
        done.extend(group)

    asyncio.run(together(slowly(), work))
    assert done == messages


async def test_a_failure_of_the_work_ends_the_stream_though_no_message_comes() -> None:
    source, work = Source(), Work()
    work.failure = ValueError("the second")
    task = asyncio.create_task(together(source, work))
    source.send(b"1")
    await turns()
    source.send(b"2")
    await turns()
    work.gate.set()
    with pytest.raises(ValueError, match="the second"):
        await asyncio.wait_for(task, 5)
    assert work.groups == [[b"1"]]


async def test_a_failure_of_the_messages_is_raised_once_what_came_before_is_worked_on() -> None:
    source, work = Source(), Work()
    task = asyncio.create_task(together(source, work))
    source.send(b"1")
    await turns()
    source.send(b"2", ConnectionError("gone"))
    await turns()
    assert not task.done()
    work.gate.set()
    with pytest.raises(ConnectionError, match="gone"):
        await task
    assert work.groups == [[b"1"], [b"2"]]


async def test_when_work_and_messages_fail_one_of_them_is_told_and_none_is_left() -> None:
    source, work = Source(), Work()
    work.failure = ValueError("work")
    task = asyncio.create_task(together(source, work))
    source.send(b"1", ConnectionError("messages"))
    await turns()
    work.gate.set()
    with pytest.raises(ValueError, match="work"):
        await task


@pytest.mark.parametrize("messages", [0, 1, 2, 5 * GROUP_MESSAGES])
async def test_a_cancelled_stream_ends_its_work(messages: int) -> None:
    source, work = Source(), Work()
    task = asyncio.create_task(together(source, work))
    source.send(*[b"m"] * messages)
    await turns(3 * messages + 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.running == 0


# in_turn


async def test_answers_come_in_the_order_of_the_messages_whatever_ends_first() -> None:
    ended: list[bytes] = []

    async def work(message: bytes) -> bytes:
        await turns(10 - int(message))
        ended.append(message)
        return message + b"!"

    messages = [b"%d" % number for number in range(8)]
    answers = [answer async for answer in in_turn(arriving(messages), work)]
    assert answers == [message + b"!" for message in messages]
    assert ended != messages, "they ran at the same time"


@given(st.lists(st.binary(max_size=4)), st.lists(st.integers(0, 3)))
@settings(max_examples=200, deadline=None)
def test_every_message_has_its_answer(messages: list[bytes], delays: list[int]) -> None:
    begun: list[bytes] = []

    async def work(message: bytes) -> bytes:
        begun.append(message)
        await turns(delays[len(begun) % len(delays)] if delays else 0)
        return message

    async def run() -> list[bytes]:
        return [answer async for answer in in_turn(arriving(messages), work)]

    assert asyncio.run(run()) == begun == messages


async def test_a_message_is_answered_without_waiting_for_the_next() -> None:
    source = Source()

    async def work(message: bytes) -> bytes:
        return message

    async with contextlib.aclosing(in_turn(source, work)) as answers:
        for number in range(5):
            source.send(b"%d" % number)
            assert await asyncio.wait_for(anext(answers), 5) == b"%d" % number
        source.send(None)
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


class Slow:
    """Work on single messages that goes on when the test lets it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = self.running = 0
        self.failing: set[bytes] = set()

    async def __call__(self, message: bytes) -> bytes:
        self.begun += 1
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            await turns(3)  # as what is cancelled may need some time to let go
            self.running -= 1
        if message in self.failing:
            raise ValueError(message.decode())
        return message


async def test_only_a_few_messages_are_read_ahead() -> None:
    source, work = Source(), Slow()
    source.send(*[b"m"] * 100, None)
    answers = in_turn(source, work)
    task = asyncio.ensure_future(anext(answers))
    await turns(200)
    assert work.begun == stream._AHEAD
    assert source.read == stream._AHEAD + 1
    work.gate.set()
    assert await task == b"m"
    assert len([answer async for answer in answers]) == 99


async def test_a_failure_comes_after_the_answers_before_it_and_ends_the_stream() -> None:
    source, work = Source(), Slow()
    work.failing = {b"2", b"3"}
    work.gate.set()
    source.send(b"0", b"1", b"2", b"3", b"4", None)
    seen: list[bytes] = []
    with pytest.raises(ValueError, match="2"):
        await collect(in_turn(source, work), seen)
    assert seen == [b"0", b"1"]


async def test_a_failure_of_the_messages_comes_after_the_answers_to_what_came_before() -> None:
    source, work = Source(), Slow()
    work.gate.set()
    source.send(b"0", b"1", ConnectionError("gone"))
    seen: list[bytes] = []
    with pytest.raises(ConnectionError, match="gone"):
        await collect(in_turn(source, work), seen)
    assert seen == [b"0", b"1"]


async def test_messages_that_were_cancelled_end_the_stream_rather_than_hold_it_for_ever() -> None:
    source, work = Source(), Slow()
    source.send(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(anext(in_turn(source, work)), 5)


@pytest.mark.parametrize("failure", [None, ConnectionError("gone")])
@pytest.mark.parametrize("messages", [0, 1, stream._AHEAD, 3 * stream._AHEAD])
async def test_a_cancelled_stream_leaves_no_work(messages: int, failure: Exception | None) -> None:
    source, work = Source(), Slow()
    source.send(*[b"m"] * messages, *([failure] if failure and messages else []))
    answers = in_turn(source, work)
    task = asyncio.ensure_future(anext(answers))
    await turns(100)
    assert work.running == min(messages, stream._AHEAD)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.running == 0


async def test_a_stream_that_nobody_reads_to_its_end_leaves_no_work_and_no_unheard_error() -> None:
    source, work = Source(), Slow()
    work.failing = {b"1", b"2"}
    source.send(*(b"%d" % number for number in range(30)))
    answers = in_turn(source, work)
    first = asyncio.ensure_future(anext(answers))
    await turns(100)
    work.gate.set()
    assert await first == b"0"
    await turns()
    await answers.aclose()
    assert work.running == 0
