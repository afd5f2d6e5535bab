"""State files, ports, logs and the Serve config: what a service leaves for others to find."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.bounded_log import say
from app.cluster import REPLICA_PORTS, Ports
from app.launch import LaunchError, NotRunningError, look, start, stop
from app.log_files import read
from app.ports import BELOW_EPHEMERAL, LONE_PORTS, free_ports, free_range, taken
from app.processes import birth
from app.serve_config import serve_config
from app.settings import load_settings
from app.state import ServiceState, read_state, state_path, write_state


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORRAL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def service(tmp_path: Path, **changes: object) -> ServiceState:
    me = psutil.Process()
    fields = {"name": "s", "pid": me.pid, "created": birth(me.pid), "profile": "pocket",
              "run_dir": str(tmp_path), "address": "http://127.0.0.1:1"}  # fmt: skip
    return ServiceState(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_state_comes_back_and_is_its_owners_alone(tmp_path: Path) -> None:
    state = service(tmp_path)
    write_state(state)
    assert read_state("s") == state
    assert stat.S_IMODE(state_path("s").stat().st_mode) == 0o600


def test_a_process_is_known_by_its_id_and_its_start(tmp_path: Path) -> None:
    assert service(tmp_path).alive()
    assert not service(tmp_path, created=birth(os.getppid())).alive()


def test_a_service_that_an_earlier_version_started_is_known_too(tmp_path: Path) -> None:
    """It wrote the moment by the clock; `corral up` would end a service that it took for dead."""
    started = psutil.Process().create_time()
    assert service(tmp_path, created=started).alive()
    assert not service(tmp_path, created=started - 60).alive()


def test_a_broken_or_missing_file_is_no_service(state_folder: Path) -> None:
    state_folder.mkdir()
    (state_folder / "s.json").write_text("{")
    assert read_state("s") is None
    with pytest.raises(NotRunningError, match="corral up"):
        look("s")
    with pytest.raises(NotRunningError):
        stop("s")


def test_what_a_killed_service_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    """Its own have it in their environment or work in it; a person's shell only stands there."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    mine = subprocess.Popen(sleep, env={**os.environ, "CORRAL_PROGRESS_DIR": str(run_dir / "progress")})
    neighbours = subprocess.Popen(sleep, env={**os.environ, "CORRAL_PROGRESS_DIR": f"{run_dir}-2/progress"})
    agent = subprocess.Popen(sleep, cwd=run_dir)
    shell = subprocess.Popen(
        [sys.executable, "-c", f"import pty; pty.spawn(['sh', '-c', 'cd {run_dir} && echo there && exec sleep 60'])"],
        stdout=subprocess.PIPE,
    )
    try:
        assert shell.stdout
        assert shell.stdout.readline().strip() == b"there"
        write_state(service(tmp_path, run_dir=str(run_dir), created=""))
        stop("s")
        assert not psutil.pid_exists(mine.pid)
        assert not psutil.pid_exists(agent.pid)
        assert (neighbours.poll(), shell.poll()) == (None, None)
        assert not run_dir.exists()
    finally:
        for process in (mine, agent, neighbours, shell):
            process.kill()
            process.communicate()


def test_a_dead_service_is_told_with_its_last_word(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "service.log").write_text("one\nport 8000 is taken\n")
    write_state(service(tmp_path, created=""))
    with pytest.raises(LaunchError, match="port 8000 is taken"):
        look("s")


def test_nothing_starts_where_it_runs_or_the_port_is_taken(tmp_path: Path) -> None:
    settings = load_settings("pocket", {})
    write_state(service(tmp_path))
    with pytest.raises(LaunchError, match="runs already"):
        start(settings, "s", "pocket")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        busy = load_settings("pocket", {"CORRAL_EDGE__PORT": str(port)})
        with pytest.raises(LaunchError, match=f"port {port} .* is taken"):
            start(busy, "t", "pocket")


def test_a_run_folder_is_where_it_is_said_and_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings("pocket", {"CORRAL_EDGE__PORT": str(free_ports(1)[0])})
    for folder, problem in (
        (str(tmp_path), "cannot hold the service's sockets; name a folder by at most 13 letters, digits and"),
        ("tmp", "cannot hold"),
        ("/a folder", "letters, digits and"),
        ("/proc", "nothing can be put into /proc: .*; CORRAL_RUN_DIR names another folder"),
    ):
        monkeypatch.setenv("CORRAL_RUN_DIR", folder)
        with pytest.raises(LaunchError, match=problem):
            start(settings, "s", "pocket")
    assert load_settings("pocket").models, "the variable is no setting"


def test_a_folder_in_which_others_may_rename_is_none_for_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings("pocket", {"CORRAL_EDGE__PORT": str(free_ports(1)[0])})
    folder = Path(f"/tmp/{secrets.token_hex(3)}")
    folder.mkdir()
    try:
        folder.chmod(0o777)
        monkeypatch.setenv("CORRAL_RUN_DIR", str(folder))
        with pytest.raises(LaunchError, match="others may replace what lies in"):
            start(settings, "s", "pocket")
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


def test_what_cannot_be_said_is_said_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(OSError, match="No space left"):
            full.write("this is how it would end the service\n")
        say("something broke")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


def test_a_service_tells_that_its_disk_is_full(tmp_path: Path) -> None:
    """In /proc nothing fits."""
    assert service(tmp_path, run_dir="/proc").disk_full
    assert not service(tmp_path).disk_full
    assert not service(tmp_path, run_dir=str(tmp_path / "gone")).disk_full


def test_free_ports_are_distinct_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not any(taken(port) for port in ports)
    assert max(ports) < 32768  # an outgoing connection cannot take one of them
    first = free_range(5)
    assert not any(taken(port) for port in range(first, first + 5))


def test_no_port_is_given_that_somebody_will_take() -> None:
    wanted = [*LONE_PORTS][::2]
    assert not set(free_ports(500, beside=wanted)) & set(wanted)
    few = [port for port in BELOW_EPHEMERAL if not 24000 <= port < 24800]
    assert free_range(400, beside=few) in (24000, 24400)
    chosen = Ports.choose(24000)
    assert 24000 not in range(chosen.replicas, chosen.replicas + REPLICA_PORTS)


def test_the_last_lines_of_each_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n2\n3\n")
    assert [line for _, line in read([log], 2, follow=False)] == ["2", "3"]


def test_a_log_that_is_begun_again_is_read_on(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("1\n2\n3\n")
    lines = read([log], 1, follow=True)
    assert next(lines)[1] == "3"
    log.write_text("4\n")
    assert next(lines)[1] == "4"
    lines.close()  # type: ignore[attr-defined]


def test_a_serve_config_has_every_model_under_its_own_prefix() -> None:
    config = serve_config(load_settings("pocket", {}))
    routes = {each["name"]: each["route_prefix"] for each in config["applications"]}
    assert routes["gateway"] == "/"
    assert routes["model-pocket-8b"] == "/models/pocket-8b"
    assert routes["tribunal"] is None
    assert routes["retrieval"] is None
    assert len(routes) == 7
    assert Path(config["applications"][1]["args"]["spec"]["source"]).is_absolute()
