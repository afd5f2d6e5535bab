"""`serve deploy` with what `corral serve-config` prints, on a Ray that Corral did not start."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from app.cluster import Cluster, Ports, start_head
from app.edge_process import haproxy_binary
from app.serve_proxy import VARIABLE as PROXY
from deployments.secret import VARIABLE as ASKS_FOR_SECRET
from tests.serve.herd import small
from tests.serve.service import CORRAL, ROOT, family, run_corral, service_environment
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

MODEL = "lone-llama"


@pytest.fixture
async def ray(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A fresh Ray with a dashboard, which is what `serve deploy` talks to. Its sockets want a short path."""
    folder = Path("/tmp") / f"deploy-{os.getpid()}"
    folder.mkdir(mode=0o700)
    # As where no edge is: what lets in the service alone is left out.
    open_to_all = {ASKS_FOR_SECRET: "0", PROXY: haproxy_binary()}
    cluster = Cluster(folder, Ports.choose(), None, 80 << 20, True, open_to_all)
    cluster.prepare()
    head = await start_head(cluster)
    processes = family(head.pid)
    yield cluster
    processes += [process for process in family(head.pid) if process not in processes]
    head.terminate()
    await head.wait()
    await asyncio.to_thread(end, processes)
    shutil.rmtree(folder)


def end(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=15)
    for process in left:
        process.kill()


def test_serve_deploy_brings_up_the_same_applications(ray: Cluster, tmp_path: Path) -> None:
    profile, config = tmp_path / "lone.yaml", tmp_path / "serve.yaml"
    profile.write_text(yaml.safe_dump({"models": {MODEL: small("pocket:pocket-1b")}}))
    port = str(ray.ports.serve)
    printed = run_corral(
        service_environment(tmp_path, "none"), "serve-config", "--profile", str(profile), "--port", port
    )
    config.write_text(printed.stdout)
    dashboard = f"http://127.0.0.1:{ray.ports.dashboard}"
    run(ray, str(CORRAL.with_name("serve")), "deploy", str(config), "--address", dashboard)
    applications = until(lambda: settled(ray, dashboard), what="RUNNING applications")
    assert {name: application["status"] for name, application in applications.items()} == {
        "gateway": "RUNNING", f"model-{MODEL}": "RUNNING", "tribunal": "RUNNING", "retrieval": "RUNNING",
    }  # fmt: skip
    assert list(applications[f"model-{MODEL}"]["deployments"]) == [MODEL]
    assert applications["gateway"]["deployments"]["gateway"]["status"] == "HEALTHY"
    with httpx.Client(base_url=f"http://{ray.serve_address}", timeout=PATIENCE_S, trust_env=False) as http:
        until(lambda: http.get(f"/ready/{MODEL}").status_code == 200, what="a ready model")
        asked = {"model": MODEL, "max_tokens": 8, "temperature": 0}
        chat = {**asked, "messages": [{"role": "user", "content": "Hello!"}]}
        through = http.post("/v1/chat/completions", json=chat)
        straight = http.post(f"/models/{MODEL}/v1/chat/completions", json=chat)
        assert through.json()["choices"] == straight.json()["choices"]
        generated = http.post("/generate", json={**asked, "prompt": "Hello!"})
        assert generated.json()["text"] == through.json()["choices"][0]["message"]["content"]
        alone = {"strategy": "single", "members": [MODEL], "temperature": 0, "max_tokens": 8}
        sat = http.post("/v1/tribunal", json={"question": "Hello!", "config": alone})
        assert sat.json()["answer"] == generated.json()["text"].strip()


def settled(ray: Cluster, dashboard: str) -> dict[str, Any]:
    """Applications as `serve status` shows them, once none is on its way; else nothing."""
    shown = yaml.safe_load(run(ray, str(CORRAL.with_name("serve")), "status", "--address", dashboard))
    applications: dict[str, Any] = shown["applications"]
    states = [application["status"] for application in applications.values()]
    return applications if states and not {"DEPLOYING", "NOT_STARTED"} & set(map(str, states)) else {}


def run(ray: Cluster, *command: str) -> str:
    done = subprocess.run(
        command, env=ray.environment(), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
