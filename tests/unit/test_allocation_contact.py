"""What a worker does when its head does not answer: it waits while the head lives, and knows when it is given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.allocation.contact import ClusterGone, Contact, answers, ends_of_steps
from app.allocation.known_replicas import KNOWN_S, KnownReplicas
from app.allocation.records import JobStatus, ServiceFolder, ServiceJob
from tests.ports import own_port

MOMENT_S = 0.01
PATIENCE_S = 5


class Head:
    """What a head leaves on the shared folder, and its port."""

    def __init__(self, job: ServiceJob) -> None:
        self.job, self.now = job, 1000.0
        self.port = own_port()

    async def gcs(self) -> str:
        return f"127.0.0.1:{self.port}"

    def tells(self, state: str = "joined") -> None:
        self.now += 1
        JobStatus(7, 0, "serving", self.now, nodes={"n2": {"state": state}}).write(self.job.status_file)

    @contextlib.asynccontextmanager
    async def telling(self, state: str = "lost") -> AsyncIterator[None]:
        async def tell() -> None:
            while True:
                self.tells(state)
                await asyncio.sleep(MOMENT_S)

        task = asyncio.create_task(tell())
        yield
        task.cancel()

    @contextlib.asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", self.port)
        async with server:
            yield


@pytest.fixture
def head(tmp_path: Path) -> Head:
    service = ServiceFolder(tmp_path / "service")
    service.create()
    return Head(service.new_job())


def contact(head: Head, silent_s: float = 0.2) -> Contact:
    return Contact(head.job, "n2", MOMENT_S, MOMENT_S, silent_s, lambda: head.now)


async def test_a_head_that_answers_is_not_waited_for(head: Head) -> None:
    async with head.answering(), asyncio.timeout(PATIENCE_S):
        assert await answers(await head.gcs())
        await contact(head).until_answers(head.gcs)


async def test_a_head_that_neither_answers_nor_tells_anything_is_gone(head: Head) -> None:
    head.tells()
    with pytest.raises(ClusterGone, match="its head does not answer any more"):
        async with asyncio.timeout(PATIENCE_S):
            await contact(head).until_answers(head.gcs)


async def test_a_head_that_lives_is_waited_for_until_the_network_is_back(head: Head) -> None:
    """Far longer than a silent one."""
    waiting = asyncio.create_task(contact(head, silent_s=0.1).until_answers(head.gcs))
    async with head.telling(), asyncio.timeout(PATIENCE_S):
        await asyncio.sleep(0.5)
        assert not waiting.done()
        async with head.answering():
            await waiting


async def test_one_that_falls_silent_while_it_is_waited_for_is_gone(head: Head) -> None:
    waiting = asyncio.create_task(contact(head, silent_s=0.1).until_answers(head.gcs))
    async with head.telling(), asyncio.timeout(PATIENCE_S):
        await asyncio.sleep(0.3)
        assert not waiting.done()
    with pytest.raises(ClusterGone):
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_a_node_that_its_head_had_and_lost_is_told(head: Head) -> None:
    lost = asyncio.create_task(contact(head).until_lost())
    for state in ("joined", "joined", "lost"):
        assert not lost.done()
        await asyncio.sleep(0)
        head.tells(state)
        await asyncio.sleep(20 * MOMENT_S)
    async with asyncio.timeout(PATIENCE_S):
        await lost


@pytest.mark.parametrize("states", [("lost", "lost"), ("joined", "joined"), ("lost", "joined"), ("waiting", "lost")])
async def test_what_does_not_say_so_ends_nothing(head: Head, states: tuple[str, ...]) -> None:
    """A head that has not seen the node join again still tells of its loss before."""
    lost = asyncio.create_task(contact(head).until_lost())
    for state in states:
        await asyncio.sleep(0)
        head.tells(state)
        await asyncio.sleep(20 * MOMENT_S)
    assert not lost.done()
    lost.cancel()


async def test_what_was_told_before_it_joined_again_counts_for_nothing(head: Head) -> None:
    """Also where a shared folder shows it late."""
    head.now = 2000
    lost = asyncio.create_task(contact(head).until_lost())
    await asyncio.sleep(0)
    head.now = 1000
    for state in ("joined", "lost"):
        head.tells(state)
        await asyncio.sleep(20 * MOMENT_S)
    assert not lost.done()
    lost.cancel()


async def test_without_a_word_of_the_head_nothing_is_lost(head: Head) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10 * MOMENT_S):
            await contact(head).until_lost()


def test_the_batch_shell_tells_of_steps_that_it_saw_end(head: Head) -> None:
    assert ends_of_steps(head.job, "n2") == 0
    told = ["1.000 step started n2", "2.000 step ended n3", "1.500 step ended n2", "3.000 step ended n2", "4.000 st"]
    head.job.timeline.write_text("\n".join(told))
    assert (ends_of_steps(head.job, "n2"), ends_of_steps(head.job, "n3"), ends_of_steps(head.job, "n1")) == (2, 1, 0)


def test_a_dead_nodes_replicas_are_known_though_serve_tells_of_them_no_more() -> None:
    now = [0.0]
    known = KnownReplicas(lambda: now[0])
    known.note({"model-a": [["10.0.0.2", 1], ["10.0.0.3", 2]], "gateway": [["10.0.0.1", 9]]})
    now[0] = 5
    known.note({"model-a": [["10.0.0.3", 2], ["10.0.0.2", 3]], "gateway": []})
    assert sorted(known.lost("10.0.0.2")) == [("model-a", 1), ("model-a", 3)]
    assert known.lost("10.0.0.2") == []
    assert known.lost("10.0.0.3") == [("model-a", 2)]
    assert known.lost("10.0.0.1") == [("gateway", 9)]


def test_replicas_of_long_ago_are_forgotten() -> None:
    now = [0.0]
    known = KnownReplicas(lambda: now[0])
    known.note({"model-a": [["10.0.0.2", 1]]})
    now[0] = KNOWN_S
    known.note({"model-a": [["10.0.0.2", 2]]})
    assert known.lost("10.0.0.2") == [("model-a", 2)]
