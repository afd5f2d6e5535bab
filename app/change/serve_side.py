"""Changes what is deployed on the Ray that $RAY_ADDRESS names, as a service orders line by line on standard input.

A process of its own, for as long as a change takes: building a model's application imports vLLM (7 s, 0.6 GB).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import ray
from ray import serve
from ray._private.state import available_resources_per_node
from ray.util import placement_group_table

from app.deploy import model_targets, run, system_targets
from app.retrieval.resolved import with_documents
from app.serve_config import GATEWAY, RETRIEVAL, TRIBUNAL
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.herd import model_status, short_reason, word
from deployments.progress import read_phase
from deployments.serve_state import read_status

SYSTEM = (GATEWAY, TRIBUNAL, RETRIEVAL)
ANSWER_S = 5.0
NOT_PLACED = ("PENDING", "PREPARED", "RESCHEDULING")


class ServeSide:
    """One method for each order; arguments and results are plain data."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def prepare(self) -> None:
        """What takes seconds before the first model can be built."""
        importlib.import_module("deployments.models")

    def models(self, settings: dict[str, Any]) -> dict[str, str]:
        """Deploy the models of these settings; returns those that cannot be, and why."""
        targets, failures = model_targets(Settings.model_validate(settings))
        if targets:
            run(targets)
        return failures

    def system(self, settings: dict[str, Any]) -> None:
        """Tell the gateway, the tribunals and the documents of these settings."""
        run(system_targets(with_documents(Settings.model_validate(settings)), self._host, self._port, {}))

    def settled(self, applications: list[str]) -> bool:
        """Whether all replicas of these have taken what they were told. Without any: of the system's own."""
        told = read_status().applications
        return all(name in told and _healthy(told[name]) for name in applications or SYSTEM)

    def look(self, models: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Deployed id -> what it is doing."""
        told = read_status().applications
        specs = map(ModelSpec.model_validate, models)
        return {
            spec.deployed_id: model_status(spec, told.get(spec.app_name), read_phase(spec.id)).to_json()
            for spec in specs
        }

    def under_way(self, model: dict[str, Any]) -> int:
        """Requests that its replicas have; what cannot be asked has none."""
        spec = ModelSpec.model_validate(model)
        if spec.app_name not in read_status().applications:
            return 0
        handle: Any = serve.get_deployment_handle(spec.id, app_name=spec.app_name)
        told = handle.broadcast("under_way").results(timeout_s=ANSWER_S, return_exceptions=True)
        return sum(count for count in told if isinstance(count, int))

    def delete(self, application: str) -> None:
        """Have it end what it has, and go."""
        if not self.gone(application):
            serve.delete(application, _blocking=False)

    def gone(self, application: str) -> bool:
        """Whether it has ended, and given back what it was placed on."""
        return application not in read_status().applications

    def unplaced(self, applications: list[str]) -> list[str]:
        """Of these, which have a replica that Ray finds no place for; a worker that is slow to start has one."""
        waiting = [group["name"] for group in placement_group_table().values() if group["state"] in NOT_PLACED]
        return [each for each in applications if any(name.startswith(f"SERVE_REPLICA::{each}#") for name in waiting)]

    def free(self) -> list[dict[str, float]]:
        """What is free on each node."""
        return [dict(each) for each in available_resources_per_node().values()]


def _healthy(application: Any) -> bool:
    """Also by its own status: a deployment's is from before until Serve's controller has looked at what it was told."""
    return word(application.status) == "RUNNING" and all(
        word(deployment.status) == "HEALTHY" and set(deployment.replica_states) <= {"RUNNING"}
        for deployment in application.deployments.values()
    )


def obey(side: ServeSide, orders: TextIO, answers: TextIO) -> None:
    """Until there are no more orders."""
    for line in orders:
        order = json.loads(line)
        print(json.dumps(_answer(getattr(side, order["call"]), order["with"])), file=answers, flush=True)


def _answer(call: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": call(**arguments)}
    except Exception as error:
        return {"error": short_reason(f"{type(error).__name__}: {error}")}


def main(host: str, port: str) -> None:
    """Entry of the process. What Ray and vLLM print goes to the log, not among the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ray.init(log_to_driver=False, namespace="serve")
    obey(ServeSide(host, int(port)), sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
