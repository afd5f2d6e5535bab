"""Which scope a request needs by its path and its model, and who has it."""

from __future__ import annotations

import pytest

from app.access.rules import Need, asking, needed
from deployments.principal import Principal


def text(method: str, path: str, model: str | None = None) -> str | None:
    need = needed(method, path, model)
    return None if need is None else str(need)


@pytest.mark.parametrize(
    ("method", "path", "model", "scope"),
    [
        ("POST", "/v1/chat/completions", "llama", "models:llama"),
        ("POST", "/v1/embeddings", "bge", "models:bge"),
        ("POST", "/v1/chat/completions", None, None),
        ("POST", "/generate", "llama", "models:llama"),
        ("POST", "/bulk", "llama", "models:llama"),
        ("POST", "/bulk", None, None),
        ("POST", "/tokenize", "llama", "models:llama"),
        ("POST", "/v1/chat/completions", "tribunal", "tribunal:default"),
        ("POST", "/v1/chat/completions", "tribunal/quick", "tribunal:quick"),
        ("POST", "/v1/chat/completions", "rag/handbook", "rag:handbook"),
        ("GET", "/v1/models", None, None),
        ("GET", "/v1/models/llama", "llama", None),
        ("GET", "/v1/usage", None, None),
        ("GET", "/ready", None, None),
        ("GET", "/health", None, None),
        ("POST", "/v1/tribunal", None, "tribunal"),
        ("GET", "/v1/tribunal", None, "tribunal"),
        ("DELETE", "/v1/tribunal/abc", None, "tribunal"),
        ("POST", "/v1/rag/chat", "llama", "rag or documents"),
        ("DELETE", "/v1/rag/collections/handbook", None, "rag or documents"),
        ("GET", "/metrics", None, "metrics"),
        ("POST", "/v1/load_lora_adapter", "llama", "admin"),
        ("POST", "/v1/unload_lora_adapter", None, "admin"),
    ],
)
def test_the_scope_of_a_request(method: str, path: str, model: str | None, scope: str | None) -> None:
    assert text(method, path, model) == scope


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/%6detrics", "metrics"),
        ("/v1/load%5flora_adapter", "admin"),
        ("/v1/%75nload_lora_adapter", "admin"),
        ("/v1%2ftribunal", "tribunal"),
        ("/v1/r%61g/chat", "rag or documents"),
        ("/gener%61te", "models:llama"),
    ],
)
def test_an_encoded_path_needs_what_the_plain_one_needs(path: str, scope: str) -> None:
    assert text("POST", path, "llama") == scope


def test_a_path_is_decoded_once_as_servers_do() -> None:
    assert text("GET", "/%256detrics") is None


@pytest.mark.parametrize(
    ("scopes", "need", "met"),
    [
        (("models",), asking("llama"), True),
        (("models:llama",), asking("llama"), True),
        (("models:llama",), asking("llama-2"), False),
        (("models:llama",), asking("LLAMA"), False),
        (("models",), asking("tribunal"), False),
        (("tribunal:default",), asking("tribunal"), True),
        (("tribunal:quick",), asking("tribunal"), False),
        (("rag:handbook",), asking("rag/handbook"), True),
        (("documents:handbook",), asking("rag/handbook"), False),
        (("documents:handbook",), Need(("rag", "documents")), True),
        (("rag:handbook",), Need(("rag", "documents"), "handbook"), True),
        (("rag:handbook",), Need(("rag", "documents"), "notes"), False),
        (("tribunal:quick",), Need(("tribunal",)), True),
        (("models", "tribunal", "rag", "documents"), Need(("metrics",)), False),
        (("models", "tribunal", "rag", "documents", "metrics"), Need(("admin",)), False),
        (("admin",), Need(("metrics",)), True),
        (("admin",), asking("rag/anything"), True),
    ],
)
def test_who_has_what_it_takes(scopes: tuple[str, ...], need: Need, met: bool) -> None:
    assert need.met_by(Principal("aaaaaaaa", scopes=scopes)) is met


def test_a_need_is_written_as_the_scope_that_meets_it() -> None:
    assert str(Need(("rag", "documents"), "handbook")) == "rag:handbook or documents:handbook"
    assert str(Need(("admin",))) == "admin"


def test_the_service_itself_may_do_everything() -> None:
    for need in (asking("llama"), asking("tribunal/quick"), Need(("admin",)), Need(("metrics",))):
        assert need.met_by(Principal())
