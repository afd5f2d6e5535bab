"""What answers is told that its client left, and is cancelled only if it does not end by that."""

import asyncio

import pytest

from app.middleware import CancelledOnce
from deployments import hang_up
from deployments.hang_up import ended_by_disconnect


class Answer:
    """Goes on until it is told that its client left, or is cancelled; `ends` says by which it ended."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.ends: list[str] = []

    async def __call__(self, *_: object) -> None:
        try:
            await self.gone.wait()
            self.ends.append("told")
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise


async def started(answer: asyncio.Task[None]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not answer.done()


async def test_an_answer_that_ends_is_waited_for() -> None:
    done: list[int] = []

    async def answer() -> None:
        done.append(1)

    await ended_by_disconnect(answer())
    assert done == [1]


async def test_a_cancelled_answer_hears_of_the_disconnect_and_ends_by_itself() -> None:
    answer = Answer()
    task = asyncio.create_task(ended_by_disconnect(answer(), answer.gone.set))
    await started(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.ends == ["told"]


async def test_an_answer_that_does_not_listen_is_cancelled_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_up, "PATIENCE_S", 0.01)
    answer = Answer()
    task = asyncio.create_task(ended_by_disconnect(answer()))
    await started(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert answer.ends == ["cancelled"]


async def test_the_gateways_app_is_not_cancelled_by_serve_while_it_ends_by_the_disconnect() -> None:
    app = Answer()

    async def unused() -> dict[str, object]:
        raise AssertionError

    async def send(message: object) -> None:
        raise AssertionError

    task = asyncio.create_task(CancelledOnce(app)({"type": "http"}, unused, send))
    await started(task)
    task.cancel()
    await asyncio.sleep(0)
    app.gone.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert app.ends == ["told"]
