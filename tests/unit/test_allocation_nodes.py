"""Which nodes a job has and lacks, and what its models go through: told from small files and from what Ray hears."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.allocation.nodes import Node, degraded, gathered, lacking, seen
from app.allocation.phases import PhaseWatch
from app.allocation.records import NodeRecord

WANTED = {"n1": "main", "n2": "main", "n3": "gpu"}
HERE = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
ALIVE = dict.fromkeys(HERE.values(), True)


def said(node: str, phase: str = "joined", group: str = "main", address: str = "", **changes: Any) -> NodeRecord:
    return replace(NodeRecord(node, group, 7, 1, phase, address or HERE.get(node, "")), **changes)


WHOLE = [said("n1"), said("n2"), said("n3", group="gpu")]
ALL = gathered(WANTED, WHOLE, 7, 1)


def states(nodes: list[Node]) -> dict[str, str]:
    return {node.name: node.state for node in nodes}


@pytest.mark.parametrize(
    ("phase", "state", "detail"),
    [
        ("starting", "waiting", "starting"), ("waiting for the head", "waiting", "waiting for the head"),
        ("joining", "waiting", "joining"), ("joined", "joined", ""), ("lost", "joined", ""), ("ended", "joined", ""),
        ("failed", "failed", "failed"),
    ],
)  # fmt: skip
def test_a_node_is_where_its_agent_says(phase: str, state: str, detail: str) -> None:
    assert gathered({"n2": "main"}, [said("n2", phase)], 7, 1) == [Node("n2", "main", state, "10.0.0.2", detail)]


def test_a_failed_node_is_told_with_its_reason() -> None:
    (node,) = gathered({"n2": "main"}, [said("n2", "failed", detail="no such interface")], 7, 1)
    assert (node.state, node.detail) == ("failed", "no such interface")


def test_what_agents_of_an_earlier_start_or_another_job_said_does_not_count() -> None:
    earlier = [said("n1", restarts=0), said("n2", "failed", job_id=6), said("n9")]
    nodes = gathered(WANTED, earlier, 7, 1)
    assert states(nodes) == dict.fromkeys(WANTED, "waiting")
    assert {node.detail for node in nodes} == {"its agent has not started"}


def test_a_whole_job_lacks_nothing() -> None:
    nodes = seen(ALL, WHOLE, ALIVE)
    assert nodes == ALL
    assert lacking(WANTED, nodes) == {}
    assert degraded(nodes, {}, {"m": {"state": "ready", "replicas": 2, "target_replicas": 2}}) is None


def test_a_node_that_ray_has_not_heard_of_yet_is_not_lost() -> None:
    assert states(seen(ALL, WHOLE, {})) == dict.fromkeys(WANTED, "joined")


def test_a_node_that_ray_no_longer_hears_is_lost_and_its_group_lacks_it() -> None:
    nodes = seen(ALL, WHOLE, {**ALIVE, "10.0.0.2": False})
    assert states(nodes) == {"n1": "joined", "n2": "lost", "n3": "joined"}
    lack = lacking(WANTED, nodes)
    assert lack == {"main": 1}
    assert degraded(nodes, lack, {}) == "lost n2"
    assert states(seen(nodes, WHOLE, {**ALIVE, "10.0.0.2": False}))["n2"] == "lost"


@pytest.mark.parametrize("address", ["10.0.0.2", "10.0.0.22"])
def test_a_node_comes_back_also_at_another_address(address: str) -> None:
    lost = seen(ALL, WHOLE, {**ALIVE, "10.0.0.2": False})
    again = [said("n1"), said("n2", address=address), said("n3", group="gpu")]
    nodes = seen(lost, again, {**ALIVE, "10.0.0.2": False, address: True})
    assert nodes == [ALL[0], Node("n2", "main", "joined", address), ALL[2]]
    assert lacking(WANTED, nodes) == {}


def test_a_joiners_node_stands_in_for_the_lost_one() -> None:
    """Also once the joiner's own agent says nothing more."""
    joiner = said("n9", address="10.0.0.9", job_id=8, restarts=0)
    alive = {**ALIVE, "10.0.0.2": False, "10.0.0.9": True}
    nodes = seen(ALL, [*WHOLE, joiner], alive)
    assert states(nodes) == {"n1": "joined", "n2": "lost", "n3": "joined", "n9": "joined"}
    lack = lacking(WANTED, nodes)
    assert lack == {}
    assert degraded(nodes, lack, {}) is None
    nodes = seen(nodes, WHOLE, {**alive, "10.0.0.9": False})
    assert lacking(WANTED, nodes) == {"main": 1}
    assert degraded(nodes, lacking(WANTED, nodes), {}) == "lost n2, n9"


def test_a_joiners_node_counts_for_its_own_group() -> None:
    joiner = said("n9", group="gpu", address="10.0.0.9", job_id=8)
    nodes = seen(ALL, [*WHOLE, joiner], {**ALIVE, "10.0.0.2": False, "10.0.0.9": True})
    assert lacking(WANTED, nodes) == {"main": 1}


def test_a_node_of_an_earlier_start_that_is_no_longer_here_hides_no_loss() -> None:
    """What a killed agent said last stays on the shared folder: it had joined."""
    earlier = said("n8", address="10.0.0.8", restarts=0)
    nodes = seen(ALL, [*WHOLE, earlier], {**ALIVE, "10.0.0.2": False})
    assert states(nodes) == {"n1": "joined", "n2": "lost", "n3": "joined"}
    assert lacking(WANTED, nodes) == {"main": 1}


def test_a_node_stays_in_its_group_whichever_it_was_in_at_an_earlier_start() -> None:
    assert seen(ALL, [*WHOLE, said("n3", group="main", restarts=0)], ALIVE) == ALL


def test_models_that_are_less_than_they_should_be_are_told() -> None:
    models: dict[str, dict[str, object]] = {
        "a": {"state": "ready", "replicas": 1, "target_replicas": 2},
        "b": {"state": "failed", "replicas": 0, "target_replicas": 1},
        "c": {"state": "idle", "replicas": 0, "target_replicas": 0},
        "d": {"state": "ready"},
    }
    nodes = [Node("n1", "main", "joined"), Node("n2", "main", "lost")]
    assert degraded(nodes, {"main": 1}, models) == "lost n2; a has 1 of 2 replicas; b failed"


class Told:
    """A watch over a folder of phases, and what it said."""

    def __init__(self, folder: Path, *models: str) -> None:
        self.folder = folder
        self.events: list[tuple[str, str]] = []
        self.watch = PhaseWatch(folder, models, lambda event, model: self.events.append((event, model)))

    def phase(self, model: str, phase: str) -> None:
        (self.folder / model).write_text(phase)
        self.watch.look()
        self.watch.look()


def test_each_phase_is_told_once_in_its_order(tmp_path: Path) -> None:
    told = Told(tmp_path, "m", "other")
    for phase in ("starting the engine", "loading weights", "warming up", "compiling", "capturing CUDA graphs",
                  "warming up", "compiling", "starting the server"):  # fmt: skip
        told.phase("m", phase)
    assert told.events == [("process", "m"), ("weights", "m"), ("warm-up", "m"), ("compile", "m")]


def test_a_model_without_a_file_or_with_another_phase_says_nothing(tmp_path: Path) -> None:
    told = Told(tmp_path, "m", "other")
    told.phase("stranger", "loading weights")
    told.phase("m", "")
    told.phase("m", "thinking")
    assert told.events == []
    Told(tmp_path / "gone", "m").watch.look()
    told.phase("other", "loading weights")
    assert told.events == [("weights", "other")]


def test_a_model_becomes_ready_once_and_may_have_failed_before(tmp_path: Path) -> None:
    told = Told(tmp_path, "m", "other")
    assert told.watch.states({"m": {"state": "failed"}, "other": {"state": "starting"}}) == []
    assert told.watch.states({"m": {"state": "failed"}, "other": {"state": "ready"}}) == ["other"]
    assert told.watch.states({"m": {"state": "ready"}, "other": {"state": "ready"}}) == ["m"]
    assert told.events == [("failed", "m"), ("ready", "other"), ("ready", "m")]
