"""Orders to the batch shell: files in the job folder that it answers beside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from app.allocation import errand
from app.allocation.errand import NotSubmitted, cancelled, submitted
from app.allocation.records import ServiceFolder, ServiceJob


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "WATCH_S", 0.01)


@pytest.fixture
def service(tmp_path: Path) -> ServiceFolder:
    folder = ServiceFolder.of(tmp_path, "me", "herd")
    folder.create()
    return folder


async def shell(main: ServiceJob, answer: Callable[[Path], object]) -> str:
    """The batch shell: answers the first order that it finds; returns what that says."""
    while not (orders := [path for path in main.submit.glob("*") if "." not in path.name]):
        await asyncio.sleep(0.001)
    answer(orders[0])
    return orders[0].read_text()


def says(suffix: str, text: str) -> Callable[[Path], object]:
    return lambda order: order.with_name(f"{order.name}.{suffix}").write_text(text)


@pytest.mark.parametrize("text", ["42\n", "42;cluster\n"])
async def test_an_order_names_the_folder_and_brings_the_id(text: str, service: ServiceFolder) -> None:
    main, job = service.new_job(), service.new_job()
    job_id, order = await asyncio.gather(submitted(main, job, 5), shell(main, says("id", text)))
    assert (job_id, order) == (42, f"{job.path}\n")
    assert {path.name for path in main.submit.iterdir()} == {job.path.name, f"{job.path.name}.id"}


async def test_an_answer_that_is_still_empty_is_waited_for(service: ServiceFolder) -> None:
    main, job = service.new_job(), service.new_job()
    order = asyncio.create_task(submitted(main, job, 5))
    await shell(main, says("id", ""))
    await asyncio.sleep(0.05)
    assert not order.done()
    await shell(main, says("id", "42\n"))
    assert await order == 42


@pytest.mark.parametrize(
    ("text", "told"),
    [("sbatch: error: Invalid\n account\n", "sbatch: error: Invalid account"), ("", "sbatch failed and said nothing")],
)
async def test_what_sbatch_said_against_it_is_told(text: str, told: str, service: ServiceFolder) -> None:
    main, job = service.new_job(), service.new_job()
    with pytest.raises(NotSubmitted, match=f"^{told}$"):
        await asyncio.gather(submitted(main, job, 5), shell(main, says("error", text)))


async def test_a_shell_that_does_not_answer_is_not_waited_for_for_ever(service: ServiceFolder) -> None:
    with pytest.raises(NotSubmitted, match=r"nobody submitted it within 0\.05 s"):
        await submitted(service.new_job(), service.new_job(), 0.05)


def test_a_job_is_cancelled_by_a_file_beside_its_order(service: ServiceFolder) -> None:
    main, job = service.new_job(), service.new_job()
    cancelled(main, job)
    assert [path.name for path in main.submit.iterdir()] == [f"{job.path.name}.cancel"]
