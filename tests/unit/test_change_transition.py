"""Changes in order: what is started before what ends, what happens where there is no room, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.change import transition
from app.change.changes import Changes
from app.change.records import ChangeFolder, ChangeStatus
from app.settings import Settings
from tests.unit.change_fakes import FakeDeployer, FakeStage, profile, profile_of

EAGER = {"eager": True}


@dataclass
class Site:
    """A service with a folder for orders, and what happens to it."""

    folder: ChangeFolder
    stage: FakeStage
    deployer: FakeDeployer
    kept: list[Settings] = field(default_factory=list)
    refusal: str | None = None
    changes: Changes | None = None

    @property
    def done(self) -> list[str]:
        return self.stage.done

    async def apply(self, new: Settings, timeout_s: float = 60) -> ChangeStatus:
        """Ask for it, and wait until it has ended."""
        self.changes = self.changes or Changes(
            self.stage, self.folder, lambda: self.deployer, refusal=lambda: self.refusal,
            kept=lambda settings, _: self.kept.append(settings),
        )  # fmt: skip
        following = asyncio.create_task(self.changes.follow())
        await asyncio.sleep(0)
        asked = self.folder.submit(new.model_dump(mode="json"), "new.yaml", timeout_s, 1.0)
        async with asyncio.timeout(10):
            while not ((status := self.folder.status()) and status.id == asked.id and status.ended):
                await asyncio.sleep(0.005)
        following.cancel()
        return status


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition, "POLL_S", 0.001)
    monkeypatch.setattr("app.change.changes.POLL_S", 0.001)


def site(path: Path, settings: Settings, cpus: float = 8, bad: Sequence[str] = ()) -> Site:
    stage = FakeStage(settings)
    return Site(ChangeFolder(path), stage, FakeDeployer(settings, cpus, stage.done, bad))


async def test_a_changed_model_ends_after_its_successor_has_come_into_force(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a", "b"))
    status = await here.apply(profile_of({"a": EAGER, "b": {}}))
    assert (status.phase, status.message) == ("done", "")
    assert here.done == ["prepare", "widen a:1", "deploy a:1", "routed a:1", "take a:1 b", "delete a", "end"]
    assert set(here.deployer.deployed) == {"a:1", "b"}
    assert {model: told["state"] for model, told in status.models.items()} == {"a": "done", "b": "done"}
    assert here.kept == [profile_of({"a": EAGER, "b": {}})]


async def test_it_waits_for_requests_and_for_edges_from_before(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    here.deployer.requests["a"] = [3, 1, 0, 1]
    await here.apply(profile_of({"a": EAGER}))
    assert here.deployer.requests["a"] == []
    assert here.done[-2:] == ["delete a", "end"]


async def test_without_room_the_old_one_ends_first_and_requests_wait_for_the_new(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"), cpus=1)
    status = await here.apply(profile_of({"a": EAGER}))
    assert status.phase == "done"
    assert here.done[:6] == ["prepare", "widen a:1", "deploy a:1", "routed a:1", "take a:1", "delete a"]
    assert set(here.deployer.deployed) == {"a:1"}


async def test_what_seemed_to_fit_and_is_not_placed_gets_the_old_ones_place(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"), cpus=1)
    here.deployer.free = lambda: _free(8)  # type: ignore[method-assign]
    assert (await here.apply(profile_of({"a": EAGER}))).phase == "done"
    assert here.done.index("deploy a:1") < here.done.index("delete a")


async def test_a_worker_that_is_slow_to_start_does_not_end_the_old_one(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    here.deployer.slow["a:1"] = 3
    assert (await here.apply(profile_of({"a": EAGER}))).phase == "done"
    assert here.done == ["prepare", "widen a:1", "deploy a:1", "routed a:1", "take a:1", "delete a", "end"]
    assert here.deployer.slow["a:1"] < 0


async def test_a_slow_worker_whose_engine_does_not_start_costs_nothing(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"), bad=["a:1"])
    here.deployer.slow["a:1"] = 3
    assert (await here.apply(profile_of({"a": EAGER}))).phase == "gone back"
    assert "delete a" not in here.done


async def test_what_waits_for_one_that_had_no_room_beside_the_old_and_does_not_start_is_ended(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"), cpus=1, bad=["a:1"])
    assert (await here.apply(profile_of({"a": EAGER}))).phase == "gone back"
    first, second = " ".join(here.done).split(" prepare ")
    assert first.endswith("take a:1 delete a abandon a:1")  # `a` had taken what there was
    assert "take a:2 abandon a:1 delete a:1" in second


async def _free(cpus: float) -> list[dict[str, float]]:
    return [{"CPU": cpus}]


async def test_what_is_to_go_makes_room_for_what_comes(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a", "b"), cpus=2)
    assert (await here.apply(profile("b", "c"))).phase == "done"
    assert here.done == [
        "prepare", "widen c:1", "take b", "delete a", "deploy c:1", "routed c:1", "take b c:1", "end",
    ]  # fmt: skip


async def test_a_model_that_does_not_start_leaves_all_as_it_was(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a", "b"), bad=["a:1"])
    status = await here.apply(profile_of({"a": EAGER, "b": {}, "c": {}}))
    assert status.phase == "gone back"
    assert "models.a: failed to start 1 times: ValueError: no weights" in status.message
    assert set(here.deployer.deployed) == {"a", "b"}
    assert here.stage.in_force == profile("a", "b")
    assert "delete a" not in here.done
    assert here.kept == []


async def test_one_that_starts_and_does_not_answer_goes_back_too(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    here.stage.mute = frozenset({"a"})
    status = await here.apply(profile_of({"a": EAGER}))
    assert (status.phase, set(here.deployer.deployed)) == ("gone back", {"a"})
    assert "does not answer: HTTP 500" in status.message


async def test_the_way_back_where_the_old_one_had_to_end_starts_it_again(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"), cpus=1, bad=["a:1"])
    status = await here.apply(profile_of({"a": EAGER}))
    assert status.phase == "gone back"
    assert set(here.deployer.deployed) == {"a:2"}
    assert here.deployer.deployed["a:2"].eager is False
    assert [spec.deployed_id for spec in here.stage.in_force.models.values()] == ["a:2"]


async def test_earlier_steps_are_undone_when_a_later_one_fails(tmp_path: Path) -> None:
    """There is room for one more at a time: the first is replaced before the second fails."""
    here = site(tmp_path, profile("a", "b"), cpus=3, bad=["b:1"])
    status = await here.apply(profile_of({"a": EAGER, "b": EAGER}))
    assert status.phase == "gone back"
    assert {each: spec.eager for each, spec in here.deployer.deployed.items()} == {"a:2": False, "b": False}


async def test_a_way_back_that_fails_is_told(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"), cpus=1, bad=["a"])
    status = await here.apply(profile_of({"a": EAGER}))
    assert status.phase == "failed"
    assert "the way back failed" in status.message


async def test_what_replicas_can_be_told_starts_nothing(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a", "b"))
    assert (await here.apply(profile_of({"a": {"max_queued_requests": 3}, "b": {}}))).phase == "done"
    assert here.done == ["prepare", "widen ", "tell a", "take a b", "end"]
    assert here.stage.in_force.models["a"].max_queued_requests == 3


async def test_a_bound_of_bodies_is_told_to_all(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a", "b"))
    await here.apply(profile("a", "b", gateway={"max_body": 1000}))
    assert here.done == ["prepare", "widen ", "tell a", "tell b", "take a b", "end"]


async def test_settings_alone_need_no_deployer_that_imports_vllm(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    await here.apply(profile("a", bulk={"max_items": 3}))
    assert here.done == ["widen ", "take a", "end"]


async def test_what_cannot_be_changed_or_not_now_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    status = await here.apply(profile("a", edge={"port": 9}))
    assert (status.phase, here.done) == ("refused", [])
    assert "edge.port" in status.message
    here.refusal = "job 8 is about to take over"
    assert (await here.apply(profile("a", "b"))).message == "job 8 is about to take over"


async def test_who_was_told_before_a_failure_is_told_again(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    here.deployer.lost = True
    status = await here.apply(profile_of({"a": {"max_queued_requests": 3}}))
    assert status.phase == "failed"
    assert here.done.count("tell a") == 2
    here.deployer.lost = False
    assert (await here.apply(profile_of({"a": {"max_queued_requests": 4}}))).phase == "done"


async def test_nothing_to_change_is_done_at_once(tmp_path: Path) -> None:
    here = site(tmp_path, profile("a"))
    assert ((await here.apply(profile("a"))).phase, here.done) == ("done", [])


async def test_generations_are_never_used_twice(tmp_path: Path) -> None:
    """What was given up may still be on its way out."""
    here = site(tmp_path, profile("a"), bad=["a:1"])
    await here.apply(profile_of({"a": EAGER}))
    here.deployer.bad = ()
    assert (await here.apply(profile_of({"a": EAGER}))).phase == "done"
    assert set(here.deployer.deployed) == {"a:3"}
