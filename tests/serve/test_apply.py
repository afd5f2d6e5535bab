"""`corral apply` on a running service under load: models come, go and are replaced, and nobody else notices."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ports import own_port
from tests.serve.hang_up import asking, read_all, read_until
from tests.serve.herd import small
from tests.serve.service import CORRAL, ROOT, RunningService, running_corral
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

STEADY, TURNING, LEAVING, COMING = "steady", "turning", "leaving", "coming"
MESSAGES = [{"role": "user", "content": "Write and write."}]
LONG = {"model": LEAVING, "messages": MESSAGES, "max_tokens": 1900, "ignore_eos": True, "stream": True}
CONTEXT_TOKENS = 1024
TOO_MUCH = 1 << 20
"""More than the model's positions: vLLM refuses it."""


@dataclass
class Herd:
    """The service, and its profile as it is changed."""

    service: RunningService
    models: dict[str, Any]
    sections: dict[str, Any] = field(default_factory=dict)

    def write(self, **changes: Any) -> Path:
        """The profile with other models; None leaves one out. What is written is not kept."""
        models = {key: spec for key, spec in {**self.models, **changes}.items() if spec is not None}
        path = self.service.profile
        path.write_text(yaml.safe_dump({"models": models, **self.sections}, sort_keys=False))
        return path

    def apply(self, *options: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        return self.service.corral("apply", "--profile", str(self.write(**changes)), *options, timeout_s=600)

    def change(self) -> dict[str, Any]:
        """The last change, as `corral status` tells it."""
        told: dict[str, Any] = json.loads(self.service.corral("status", "--json").stdout)["change"] or {}
        return told

    def engines(self, *models: str) -> dict[str, list[int]]:
        return {model: sorted(each.pid for each in self.service.engine_processes(model)) for model in models}


@pytest.fixture(scope="module", autouse=True)
def late() -> Iterator[None]:
    """Serve calls a worker late after a second: one that starts slowly is not one without a place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SERVE_SLOW_STARTUP_WARNING_S", "1")
        patch.setenv("RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S", "1")
        yield


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Herd]:
    folder, port = tmp_path_factory.mktemp("apply"), own_port()
    models = {model: small("pocket:pocket-1b") for model in (STEADY, TURNING, LEAVING)}
    sections = {"edge": {"port": port}, "rag": {"folder": str(folder / "rag")}}
    profile = folder / "apply.yaml"
    profile.write_text(yaml.safe_dump({"models": models, **sections}))
    with running_corral("apply", profile, port, folder / "state") as service:
        yield Herd(service, models, sections)


@contextmanager
def load(url: str) -> Iterator[list[str]]:
    """Ask the models that stay, of the replicas and of the gateway; yields what went wrong."""
    faults: list[str] = []
    counts = {STEADY: 0, TURNING: 0}
    ended = threading.Event()

    def ask(model: str, path: str, body: dict[str, Any]) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
            while not ended.wait(0.05):
                try:
                    answer = http.post(path, json={"model": model, "max_tokens": 8, **body})
                    if answer.status_code != 200:
                        faults.append(f"{model} {path}: {answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    faults.append(f"{model} {path}: {error!r}")
                counts[model] += 1

    asks = [(model, path, body) for model in counts for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES}), ("/generate", {"prompt": "Write."}),
    )]  # fmt: skip
    threads = [threading.Thread(target=ask, args=each) for each in asks]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(counts.values()), what="an answer of each")
        yield faults
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert all(count > 10 for count in counts.values())


def chat(service: RunningService, model: str, **body: Any) -> httpx.Response:
    asked = {"model": model, "messages": MESSAGES, "max_tokens": 4, **body}
    return httpx.post(f"{service.url}/v1/chat/completions", json=asked, timeout=PATIENCE_S, trust_env=False)


def test_what_cannot_be_changed_is_refused_and_a_plan_touches_nothing(herd: Herd) -> None:
    herd.sections["edge"]["max_connections"] = 100
    plan = json.loads(herd.apply("--dry-run", "--json", leaving=None, coming=small("pocket:pocket-1b")).stdout)
    assert {each["model"]: each["how"] for each in plan["models"]} == {
        STEADY: "unchanged", TURNING: "unchanged", COMING: "new", LEAVING: "removed",
    }  # fmt: skip
    assert plan["settings"] == ["edge.max_connections"]
    herd.sections["ray"] = {"cpus": 1}
    refused = herd.apply()
    del herd.sections["ray"], herd.sections["edge"]["max_connections"]
    assert refused.returncode == 3
    assert "ray.cpus: cannot be changed while the service runs" in refused.stderr
    broken = herd.apply(turning={**herd.models[TURNING], "max_sequences": 0})
    assert (broken.returncode, "models.turning.max_sequences" in broken.stderr) == (3, True)
    assert herd.change() == {}


def test_models_come_and_are_replaced_while_others_go_on(herd: Herd) -> None:
    service, before = herd.service, herd.engines(STEADY, TURNING)
    herd.models[TURNING] = {**herd.models[TURNING], "context_tokens": CONTEXT_TOKENS}
    herd.models[COMING] = small("pocket:pocket-1b")
    with load(service.url) as faults:
        done = herd.apply("--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert faults == []
    assert json.loads(done.stdout)["phase"] == "done"
    assert chat(service, COMING).status_code == 200
    too_long = chat(service, TURNING, max_tokens=CONTEXT_TOKENS + 1)
    assert too_long.status_code == 400
    assert str(CONTEXT_TOKENS) in too_long.json()["error"]["message"]
    assert herd.engines(STEADY) == {STEADY: before[STEADY]}
    until(lambda: len(herd.engines(TURNING)[TURNING]) == 1, what=f"the end of one of {herd.engines(TURNING)}, {before}")
    assert herd.engines(TURNING)[TURNING] != before[TURNING]


def test_one_that_is_removed_finishes_what_it_has(herd: Herd) -> None:
    service = herd.service
    del herd.models[LEAVING]
    with ExitStack() as stack:
        streams = [stack.enter_context(asking(service.url, "/v1/chat/completions", LONG)) for _ in range(6)]
        begun = [read_until(stream, b"data: ", 3) for stream in streams]
        done = herd.apply()
        whole = [first + read_all(stream) for first, stream in zip(begun, streams, strict=True)]
    assert done.returncode == 0, done.stderr
    assert all(b"data: [DONE]" in each and b'"finish_reason":"length"' in each for each in whole)
    gone = chat(service, LEAVING)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


def test_what_replicas_are_told_leaves_their_engines_alone(herd: Herd) -> None:
    service, before = herd.service, herd.engines(STEADY, TURNING, COMING)
    herd.models[TURNING] = {**herd.models[TURNING], "max_ongoing_requests": 3, "autoscaling": {"downscale_delay_s": 9}}
    herd.sections["gateway"] = {"max_body": 4096}
    herd.sections["bulk"] = {"max_items": 1}
    with load(service.url) as faults:
        done = herd.apply()
    assert done.returncode == 0, done.stderr
    assert faults == []
    assert herd.engines(STEADY, TURNING, COMING) == before
    long = [{"role": "user", "content": "x" * 5000}]
    assert chat(service, STEADY, messages=long).status_code == 413
    items = [{"model": STEADY, "prompt": "Hi."}] * 2
    refused = httpx.post(f"{service.url}/bulk", json={"items": items}, timeout=PATIENCE_S, trust_env=False)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "items")
    assert herd.change()["phase"] == "done"


def test_one_that_does_not_start_goes_back_though_nobody_waits(herd: Herd) -> None:
    """The command is interrupted and the change goes on; another one is refused meanwhile."""
    service, before = herd.service, herd.engines(STEADY, TURNING, COMING)
    profile = herd.write(turning={**herd.models[TURNING], "context_tokens": TOO_MUCH})
    with load(service.url) as faults:
        with subprocess.Popen(
            [str(CORRAL), "apply", "--profile", str(profile)], env=service.environment, cwd=ROOT,
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as first:  # fmt: skip
            until(lambda: herd.change().get("phase") in ("preparing", "changing"), what="a change under way")
            first.send_signal(signal.SIGINT)
            _, said = first.communicate(timeout=PATIENCE_S)
        second = herd.apply(leaving=small("pocket:pocket-1b"))
        change = until(lambda: told if (told := herd.change())["phase"] in ("gone back", "failed") else None)
    assert (first.returncode, "the change goes on" in said) == (130, True)
    assert second.returncode == 16, second.stderr
    assert change
    assert change["phase"] == "gone back"
    assert "models.turning" in change["message"]
    assert faults == []
    assert herd.engines(STEADY, TURNING, COMING) == before
    assert chat(service, TURNING).status_code == 200
