"""The `corral` command against a service that runs, against one that does not, and on profiles."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serve.herd import SERVED
from tests.serve.service import CORRAL, ROOT, RunningService, run_corral, service_environment
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.serve

BASES = [model for model in SERVED if model != "pocket-8b-tilted"]
ASK = ("--model", "pocket-8b", "--max-tokens", "16")


def test_status_is_a_table_with_every_model(service: RunningService) -> None:
    done = service.corral("status")
    first, header, *rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert service.url in first
    assert header.split() == ["model", "state", "replicas", "detail"]
    assert [row.split()[0] for row in rows] == BASES


def test_status_as_json(service: RunningService) -> None:
    found = json.loads(service.corral("status", "--json").stdout)
    assert found["address"] == service.url
    assert found["phase"] == "serving"
    assert list(found["models"]) == BASES
    assert found["models"]["pocket-8b"] == {
        "id": "pocket-8b", "state": "ready", "replicas": 1, "target_replicas": 1,
    }  # fmt: skip


@pytest.mark.parametrize("model", [None, "pocket-8b", "broken"])
def test_logs_end_with_the_last_lines_of_each_file(service: RunningService, model: str | None) -> None:
    arguments = ["logs", *([model] if model else []), "--lines", "3"]
    plain = service.corral(*arguments)
    assert plain.returncode == 0, plain.stderr
    lines = [json.loads(line) for line in service.corral(*arguments, "--json").stdout.splitlines()]
    files = [line["file"] for line in lines]
    assert files
    assert all(files.count(file) <= 3 for file in files)
    assert {line.split(":", 1)[0] for line in plain.stdout.splitlines()} == set(files)


def test_logs_of_a_model_that_cannot_load_say_why(service: RunningService) -> None:
    assert "SafetensorError" in service.corral("logs", "broken", "--lines", "500").stdout


def test_logs_follow_until_interrupted(service: RunningService) -> None:
    with subprocess.Popen(
        [str(CORRAL), "logs", "--follow", "--lines", "0", "--json"], env=service.environment, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

        lines = list[str]()

        def told_by_the_edge() -> bool:
            service.corral("generate", "Hello!", *ASK)
            lines.extend(process.stdout or [])
            return any(json.loads(line)["file"] == "edge.log" for line in lines)

        until(told_by_the_edge, what="a new line in the edge's log")
        process.send_signal(2)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors == "corral: interrupted\n"


def test_generate_prints_the_answer(service: RunningService) -> None:
    plain = service.corral("generate", "Hello! Who are you?", *ASK)
    found = json.loads(service.corral("generate", "-", *ASK, "--json", text="Hello! Who are you?").stdout)
    assert plain.returncode == 0
    assert plain.stdout == found["text"] + "\n"
    assert found["model"] == "pocket-8b"
    assert 1 <= found["usage"]["completion_tokens"] <= 16


def test_generate_without_a_model_asks_one_that_chats(service: RunningService) -> None:
    done = service.corral("generate", "Hello!", "--max-tokens", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] in SERVED


def test_generate_finds_a_service_by_its_address(service: RunningService, tmp_path: Path) -> None:
    elsewhere = service_environment(tmp_path, "none")
    for url in (service.url, f"{service.url}/v1/"):
        assert run_corral(elsewhere, "generate", "Hello!", *ASK, "--url", url).stdout.strip()


def test_chat_through_a_pipe_keeps_its_history(service: RunningService) -> None:
    lines = "My node is cedar.\nWhat did I say?\n/history\n/clear\n/history\n/model pocket-1b\nHello!\n/models\n/quit\n"
    done = service.corral("chat", *ASK, "--system", "Be brief.", text=lines)
    assert done.returncode == 0, done.stderr
    assert "user: My node is cedar." in done.stdout
    assert done.stdout.count("system: Be brief.") == 2
    assert done.stdout.count("My node is cedar.") == 1
    assert "model pocket-1b" in done.stdout
    listed = done.stdout.splitlines()[-1].split()
    assert {"pocket-8b", "sleepy"} <= set(listed)
    assert "broken" not in listed


def test_chat_as_json_is_one_line_for_each_answer(service: RunningService) -> None:
    done = service.corral("chat", *ASK, "--json", text="Hello!\nWho are you?\n")
    assert [json.loads(line)["model"] for line in done.stdout.splitlines()] == ["pocket-8b"] * 2
    first = json.loads(service.corral("generate", "Hello!", *ASK, "--json").stdout)["text"]
    assert json.loads(done.stdout.splitlines()[0])["text"] == first


def test_chat_goes_on_after_a_refused_question(service: RunningService) -> None:
    done = service.corral("chat", *ASK, text=f"{'llama ' * 2048}\nHello!\n")
    assert done.returncode == 0
    assert done.stderr.startswith("corral: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout.strip()


def test_chat_on_a_terminal_shows_a_prompt_and_ends_with_ctrl_d(service: RunningService) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [str(CORRAL), "chat", *ASK], env={**service.environment, "TERM": "dumb"}, cwd=ROOT,
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = _read_to(ours, "> ")
        os.write(ours, b"Hello!\n")
        answered = _read_to(ours, "> ")
        os.write(ours, b"\x04")
        assert process.wait(PATIENCE_S) == 0
    os.close(ours)
    assert "pocket-8b" in shown
    assert "/help" in shown
    assert len(answered.removeprefix("Hello!").removesuffix("> ").strip()) > 1


def _read_to(terminal: int, mark: str) -> str:
    """What the terminal shows up to the mark at its end; pty reads block until something comes."""
    shown = ""
    while not shown.endswith(mark):
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_plan_says_what_is_needed(service: RunningService) -> None:
    plain = service.corral("plan", "--profile", str(service.profile))
    found = json.loads(service.corral("plan", "--profile", str(service.profile), "--json").stdout)
    assert [model["id"] for model in found["models"]] == BASES
    assert all(model in plain.stdout for model in BASES)


def test_serve_config_is_the_same_as_yaml_and_as_json(service: RunningService) -> None:
    as_yaml = yaml.safe_load(service.corral("serve-config", "--profile", str(service.profile)).stdout)
    as_json = json.loads(service.corral("serve-config", "--profile", str(service.profile), "--json").stdout)
    assert as_yaml == as_json
    assert [app["name"] for app in as_json["applications"]] == [
        "gateway", *(f"model-{model}" for model in BASES), "tribunal", "retrieval",
    ]  # fmt: skip


def test_engine_prints_vllms_own_command(service: RunningService) -> None:
    found = json.loads(service.corral("engine", "pocket-8b", "--profile", str(service.profile), "--json").stdout)
    plain = service.corral("engine", "pocket-8b", "--profile", str(service.profile)).stdout
    assert found["arguments"][found["arguments"].index("--max-model-len") + 1] == "2048"
    assert "vllm.entrypoints.openai.api_server" in plain


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no such command": (["stampede"], 2, "stampede"),
    "no such option": (["status", "--jsno"], 2, "--json"),
    "a number out of range": (["generate", "Hi", "--max-tokens", "0"], 2, "max-tokens"),
    "no such profile": (["plan", "--profile", "nope"], 3, "pocket"),
    "no such model in the profile": (["engine", "nope"], 3, "pocket-8b"),
    "no such service": (["status", "--name", "nowhere"], 4, "corral up"),
    "no such service to end": (["down", "--name", "nowhere"], 4, "nowhere"),
    "no such service to ask": (["generate", "Hi", "--name", "nowhere"], 4, "--url"),
    "no such service's logs": (["logs", "--name", "nowhere"], 4, "corral up"),
    "no such model's logs": (["logs", "nope"], 4, "pocket-8b"),
    "it runs already": (["up"], 5, "corral down"),
    "the port is taken": (["up", "--name", "second", "--port", "{port}"], 5, "--port"),
    "no such model": (["generate", "Hi", "--model", "nope"], 6, "pocket-8b"),
    "a prompt past the context": (["generate", "llama " * 2048, "--model", "pocket-1b"], 6, "2048"),
    "a model that failed": (["generate", "Hi", "--model", "broken"], 7, "SafetensorError"),
    "a model that failed, in a chat": (["chat", "--model", "broken"], 7, "SafetensorError"),
    "nothing answers there": (["generate", "Hi", "--url", "http://127.0.0.1:9"], 7, "127.0.0.1:9"),
}


@pytest.mark.parametrize(("arguments", "code", "word"), WRONG.values(), ids=WRONG)
def test_an_error_is_one_line_with_its_own_exit_code(
    service: RunningService, arguments: list[str], code: int, word: str
) -> None:
    port = service.url.rpartition(":")[2]
    done = service.corral(*(argument.format(port=port) for argument in arguments), text="Hi\n")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("corral: ")
    assert len(done.stderr.splitlines()) == 1
    assert word in done.stderr


def test_a_refused_start_leaves_nothing(service: RunningService) -> None:
    before = set(Path("/tmp").glob("corral-*"))
    taken: dict[str, Any] = {"--name": "second", "--port": service.url.rpartition(":")[2]}
    done = service.corral("up", *(part for pair in taken.items() for part in pair))
    assert done.returncode == 5
    assert set(Path("/tmp").glob("corral-*")) == before
    assert not (service.state_dir / "second.json").exists()
