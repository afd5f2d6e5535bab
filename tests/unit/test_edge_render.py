"""EdgeSpec and EdgeState to HAProxy's configuration: what goes in, what must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.edge_config import (
    Address,
    EdgeMode,
    EdgeSpec,
    EdgeState,
    ModelLimits,
    placed,
    render,
    render_flags,
    render_map,
)

SPEC = EdgeSpec(
    host="127.0.0.1",
    port=8000,
    workdir=Path("/run/edge"),
    serve_address="127.0.0.1:9000",
    models=(("m-a", "m-a"), ("m-a.lora", "m-a"), ("m-b", "m-b")),
)
ONE, TWO, THREE = ("10.0.0.1", 1), ("10.0.0.2", 2), ("fd00::3", 3)


def lines(text: str, start: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith(start)]


def backend(text: str, name: str) -> str:
    return text.partition(f"\nbackend {name}\n")[2].partition("\nbackend ")[0]


def test_one_backend_for_each_base_model() -> None:
    assert lines(render(SPEC), "backend ") == [
        "backend sources", "backend gateway", "backend successor", "backend model-m-a", "backend model-m-b",
    ]  # fmt: skip


def test_map_has_what_is_routed() -> None:
    assert render_map(SPEC) == "m-a m-a\nm-a.lora m-a\nm-b m-b\n"
    assert render_map(SPEC, EdgeState(frozenset({"m-a"}))) == "m-a.lora m-a\nm-b m-b\n"


def test_slots_and_backup() -> None:
    spec = replace(SPEC, limits={"m-a": ModelLimits(replicas=3)})
    part = backend(render(spec, EdgeState(slots={"m-a": (ONE, None, THREE)})), "model-m-a")
    assert lines(part, "server ") == [
        "server r1 ipv4@10.0.0.1:1 check",
        "server r2 127.0.0.1:9 check disabled",
        "server r3 ipv6@fd00::3:3 check",
        "server serve 127.0.0.1:9000 backup no-check",
    ]


def test_successor_and_mode() -> None:
    state = EdgeState(mode=EdgeMode.MOVED, successor=THREE)
    assert (render_flags(), render_flags(state)) == ("mode open\nclosing no\n", "mode moved\nclosing no\n")
    assert lines(backend(render(SPEC), "successor"), "server ") == ["server edge 127.0.0.1:9"]
    assert lines(backend(render(SPEC, state), "successor"), "server ") == ["server edge ipv6@fd00::3:3"]
    encrypted = replace(SPEC, tls_cert=Path("/etc/cert.pem"))
    assert lines(backend(render(encrypted), "successor"), "server ") == ["server edge 127.0.0.1:9 ssl verify none"]


def test_what_is_passed_on_meets_no_rule_that_changes_it() -> None:
    rules = lines(render(SPEC).partition("\nfrontend edge\n")[2].partition("\nbackend ")[0], "http-request ")
    before = rules[: rules.index("http-request allow if { var(txn.mode) -m str moved }")]
    assert {rule.split()[1].partition("(")[0] for rule in before} == {"set-var", "set-header", "del-header"}


def test_apostrophe_in_a_message() -> None:
    assert "its successor'\\''s address" in render(SPEC)


def test_limits_bound_each_replica_and_serve_for_all_of_them() -> None:
    spec = replace(SPEC, limits={"m-b": ModelLimits(replicas=2, in_flight=8, queue=5)})
    text = render(spec)
    assert [line.partition("maxconn ")[2] for line in lines(backend(text, "model-m-b"), "server ")] == [
        "8 disabled", "8 disabled", "16",
    ]  # fmt: skip
    assert "queue(model-m-b) ge 5" in text
    assert "be_conn_free" not in backend(text, "model-m-a")


def test_options_that_streams_need() -> None:
    text = render(SPEC)
    for option in ("option http-no-delay", "option abortonclose", "http-reuse always"):
        assert lines(text, option) == [option]


def test_what_was_not_answered_is_asked_again_once_and_only_where_there_are_several_replicas() -> None:
    text = render(replace(SPEC, limits={"m-b": ModelLimits(replicas=2), "m-a": ModelLimits(replicas=1)}))
    assert lines(backend(text, "model-m-b"), "retr") == ["retry-on conn-failure empty-response 503", "retries 1"]
    assert lines(backend(text, "model-m-a"), "retr") == []
    assert lines(text.partition("\nfrontend ")[0], "retry-on") == ["retry-on conn-failure"]


def test_the_gateways_replicas_stand_before_serve() -> None:
    spec = replace(SPEC, gateway_replicas=2)
    part = backend(render(spec, EdgeState(gateway=(("10.0.0.7", 40001),))), "gateway")
    assert lines(part, "server ") == [
        "server r1 ipv4@10.0.0.7:40001 check", "server r2 127.0.0.1:9 check disabled",
        f"server serve {SPEC.serve_address} backup no-check",
    ]  # fmt: skip
    assert lines(part, "retry-on") == ["retry-on conn-failure empty-response"]


def test_one_door_and_a_private_socket() -> None:
    text = render(SPEC)
    assert lines(text, "bind ") == ["bind 127.0.0.1:8000"]
    assert lines(text, "stats socket") == ["stats socket unix@admin.sock mode 600 level admin expose-fd listeners"]
    assert "stats enable" not in text


def test_lines_go_to_the_log_and_to_the_keepers_pipe_in_one_piece() -> None:
    assert lines(render(SPEC), "log ") == ["log stdout len 8192 format raw local0 info"]
    told = lines(render(replace(SPEC, keeper=True), lines=7), "log ")
    assert told[1:] == ["log fd@7 len 4096 format raw local0 info"]


def test_the_keeper_is_waited_for_in_whole_milliseconds() -> None:
    assert lines(render(replace(SPEC, keeper_wait_s=2.5)), "lua-load") == ["lua-load edge.lua 2500"]


def test_seconds_become_milliseconds() -> None:
    text = render(replace(SPEC, queue_timeout_s=1.5, idle_timeout_s=7200, connect_timeout_s=0.0001))
    assert lines(text, "timeout queue") == ["timeout queue 1500ms"]
    assert lines(text, "timeout server") == ["timeout server 7200000ms"]
    assert lines(text, "timeout connect")[0] == "timeout connect 1ms"


def test_tls() -> None:
    text = render(replace(SPEC, tls_cert=Path("/etc/a b.pem")))
    assert lines(text, "bind ") == ['bind 127.0.0.1:8000 ssl crt "/etc/a b.pem" alpn h2,http/1.1']
    assert "x-forwarded-proto https" in text


BAD: list[dict[str, Any]] = [
    {"models": (("a b", "m"),)},
    {"models": (("m", "m\nbackend x"),)},
    {"models": (("m", "../m"),)},
    {"host": "127.0.0.1 ssl"},
    {"serve_address": "127.0.0.1"},
    {"serve_address": "127.0.0.1:1 check"},
    {"health_path": "/x y"},
    {"gateway_paths": ("/v1/x }",)},
    {"tls_cert": Path('/x" crt-list "y')},
]


@pytest.mark.parametrize("changes", BAD)
def test_what_haproxy_could_misread_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(SPEC, **changes)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_is_one(port: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        render(SPEC, EdgeState(slots={"m-a": (("10.0.0.1", port),)}))


@pytest.mark.parametrize("host", ["10.0.0.1 ssl", "name.example", ""])
def test_a_replica_is_an_ip_address(host: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        render(SPEC, EdgeState(slots={"m-a": ((host, 1),)}))


def test_a_queue_needs_a_bound() -> None:
    with pytest.raises(ValueError, match="set in_flight"):
        ModelLimits(queue=1)


Slots = tuple[Address | None, ...]
PLACES: list[tuple[Slots, list[Address], int, Slots]] = [
    ((), [ONE, TWO], 3, (ONE, TWO, None)),
    ((ONE, TWO, None), [TWO, THREE], 3, (THREE, TWO, None)),
    ((ONE, TWO), [], 2, (None, None)),
    ((ONE,), [ONE, TWO, THREE], 2, (ONE, TWO)),
    ((None, ONE), [ONE, ONE], 2, (None, ONE)),
    ((ONE, TWO, THREE), [ONE, TWO, THREE], 1, (ONE,)),
]


@pytest.mark.parametrize(("old", "wanted", "size", "new"), PLACES)
def test_replicas_keep_their_slots(old: Slots, wanted: list[Address], size: int, new: Slots) -> None:
    assert placed(old, wanted, size) == new


def test_a_reload_keeps_what_still_has_a_place() -> None:
    state = EdgeState(frozenset({"m-a", "m-b"}), {"m-a": (ONE, TWO), "m-b": (THREE,)}, EdgeMode.MOVED, TWO)
    smaller = replace(SPEC, models=(("m-a", "m-a"),), limits={"m-a": ModelLimits(replicas=1)})
    assert state.kept_for(smaller) == EdgeState(frozenset({"m-a"}), {"m-a": (ONE,)}, EdgeMode.MOVED, TWO)
