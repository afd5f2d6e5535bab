"""Which nodes the service should have, which it has, and what to do about those that are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.allocation.records import NodeRecord

JOINED = frozenset({"joined", "lost", "ended"})
"""Phases of an agent that was part of the cluster once."""


@dataclass(frozen=True)
class Node:
    """state: waiting, joined, lost. address: where it lives (again), "" until it joined."""

    name: str
    group: str
    state: str = "waiting"
    address: str = ""
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        return {"group": self.group, "state": self.state, "address": self.address, "detail": self.detail}


def gathered(expected: Mapping[str, str], records: Sequence[NodeRecord], job_id: int, restarts: int) -> list[Node]:
    """The nodes of this start: name -> group as the allocation has them, and what their agents say."""
    said = {record.node: record for record in records if (record.job_id, record.restarts) == (job_id, restarts)}
    return [_gathered(name, group, said.get(name)) for name, group in expected.items()]


def _gathered(name: str, group: str, record: NodeRecord | None) -> Node:
    if record is None:
        return Node(name, group, detail="its agent has not started")
    state = "joined" if record.phase in JOINED else record.phase if record.phase == "failed" else "waiting"
    return Node(name, group, state, record.address, record.detail or ("" if state == "joined" else record.phase))


def seen(nodes: Sequence[Node], records: Sequence[NodeRecord], alive: Mapping[str, bool]) -> list[Node]:
    """The same nodes, and those of joiners, as Ray knows them: address -> whether it lives."""
    known = {node.name: node for node in nodes}
    for record in records:
        there = known.get(record.node)
        if record.phase == "joined" and alive.get(record.address) and (there is None or there.state != "joined"):
            known[record.node] = Node(record.node, record.group, "joined", record.address)
    return [_seen(node, alive) for node in known.values()]


def _seen(node: Node, alive: Mapping[str, bool]) -> Node:
    if node.state != "joined" and not alive.get(node.address):
        return node
    if alive.get(node.address, True):
        return replace(node, state="joined", detail="")
    return replace(node, state="lost", detail="Ray does not hear of it any more")


def lacking(wanted: Mapping[str, str], nodes: Sequence[Node]) -> dict[str, int]:
    """Group -> how many nodes fewer it has than the allocation gave it."""
    lack: dict[str, int] = {}
    for group in set(wanted.values()):
        asked = sum(each == group for each in wanted.values())
        have = sum(node.group == group and node.state == "joined" for node in nodes)
        if have < asked:
            lack[group] = asked - have
    return lack


def degraded(nodes: Sequence[Node], lack: Mapping[str, int], models: Mapping[str, Mapping[str, object]]) -> str | None:
    """Why the service is less than it should be, in one line; None if it is whole."""
    lost = [node.name for node in nodes if node.state == "lost"]
    reasons = [f"lost {', '.join(lost)}"] if lost and lack else []
    for model, status in models.items():
        running, target = int(str(status.get("replicas", 0))), int(str(status.get("target_replicas", 0)))
        if status.get("state") == "failed":
            reasons.append(f"{model} failed")
        elif running < target:
            reasons.append(f"{model} has {running} of {target} replicas")
    return "; ".join(reasons) or None
