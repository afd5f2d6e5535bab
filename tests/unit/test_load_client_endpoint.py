"""What an endpoint is found to be, and how it is told that it cannot be measured."""

from __future__ import annotations

import socket

import pytest
from aiohttp import web

from loadtests.client import endpoint as looking
from loadtests.client.endpoint import EndpointError, address, calibrate, look, names, require, unfit
from loadtests.client.prompts import workload_of
from loadtests.records import Kind
from tests.unit.load_client_fakes import MODEL, Endpoint, point, raw, serving, side

PLAIN = frozenset({"model", "messages", "max_tokens", "temperature", "stream", "stream_options"})


async def test_vllm_is_known_by_its_version() -> None:
    async with serving(Endpoint(context=2048)) as url:
        found = await look(f"{url}/v1/", name="bare")
    assert found == side(url, name="bare", server="vLLM 0.29.0", models=(MODEL,), contexts={MODEL: 2048})


async def test_corral_is_known_by_its_readiness_and_its_contexts_by_the_tokenizer() -> None:
    async with serving(Endpoint(corral=True, version=None, context=512, models=(MODEL, "other"))) as url:
        found = await look(url)
    assert (found.server, found.contexts) == ("Corral 0.1.0", {MODEL: 512, "other": 512})


async def test_an_endpoint_that_only_chats_is_enough() -> None:
    endpoint = Endpoint(version=None, tokenizes=False)
    endpoint.handlers["/v1/models"] = _missing
    async with serving(endpoint) as url:
        found = await look(url, models=[MODEL])
    assert (found.models, found.contexts, found.plain_models) == ((), {}, ())
    assert "aiohttp" in found.server


async def _missing(_: web.Request) -> web.Response:
    return web.Response(status=404)


async def test_an_endpoint_that_refuses_vllms_fields_is_asked_without_them() -> None:
    async with serving(Endpoint(takes=PLAIN, models=(MODEL, "other"))) as url:
        assert (await look(url)).plain_models == (MODEL, "other")
        assert (await look(url, models=[MODEL])).plain_models == (MODEL,)


async def test_an_endpoint_that_takes_or_ignores_them_is_not() -> None:
    async with serving(Endpoint()) as url:
        assert (await look(url)).plain_models == ()


async def test_a_model_that_refuses_everything_is_not_called_plain() -> None:
    async with serving(Endpoint(takes=frozenset())) as url:
        assert (await look(url)).plain_models == ()


async def test_an_unknown_model_is_told_with_the_valid_ones() -> None:
    async with serving(Endpoint(models=(MODEL, "other"))) as url:
        with pytest.raises(EndpointError, match="has no model 'large'; it has: small, other"):
            await look(url, models=["large"])


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
async def test_a_key_that_is_refused_is_told(path: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no such key"}}, status=401)

    async with serving(Endpoint(handlers={path: refuse})) as url:
        with pytest.raises(EndpointError, match=r"key.*no such key"):
            await look(url, key="wrong")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
async def test_a_key_that_is_echoed_is_not_told(path: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "x" * 193 + "sk-0123456789 is no key"}}, status=401)

    async with serving(Endpoint(handlers={path: refuse})) as url:
        with pytest.raises(EndpointError, match=r"\*\*\*") as told:
            await look(url, key="sk-0123456789")
    assert "sk-0" not in str(told.value)


async def test_the_key_is_sent() -> None:
    async with serving(Endpoint(key="right")) as url:
        assert (await look(url, key="right")).models == (MODEL,)


async def test_a_dead_endpoint_is_told() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(EndpointError, match=f"{url} does not answer: "):
            await look(url)
        assert await calibrate(side(url), MODEL) is None


async def test_an_endpoint_that_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "LOOK_S", 0.1)
    async with raw(b"", close=False) as url:
        with pytest.raises(EndpointError, match=r"does not answer /v1/models within 0\.1 s"):
            await look(url)


async def test_an_endpoint_that_is_broken_is_told() -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=502, text="no server behind")

    async with serving(Endpoint(handlers={"/v1/models": broken})) as url:
        with pytest.raises(EndpointError, match="answers 502 to /v1/models: no server behind"):
            await look(url)


@pytest.mark.parametrize("reply", [b"[]", b"7", b"<html>", b'{"data": 3}', b'{"data": [3, {"id": 4}, {}]}', b"\xff"])
async def test_a_list_of_models_that_is_none_is_empty(reply: bytes) -> None:
    async def strange(_: web.Request) -> web.Response:
        return web.Response(body=reply)

    async with serving(Endpoint(handlers={"/v1/models": strange, "/version": strange, "/ready": strange})) as url:
        assert (await look(url)).models == ()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" http://h/v1/ ", "http://h"),
        ("https://h/openai/v1", "https://h/openai"),
    ],
)
def test_addresses_are_taken_as_people_write_them(given: str, found: str) -> None:
    assert address(given) == found


@pytest.mark.parametrize("given", ["", "ftp://h", "http://", "http://h:port", "http://[::", "http://h:99999"])
def test_what_is_no_address_is_told(given: str) -> None:
    with pytest.raises(EndpointError, match="is no address"):
        address(given)


@pytest.mark.parametrize(
    "given", ["http://me:se@cret@h:8000/v1", "me:secret@h:8000", "https://secret@h:8000", "http://me:se/cret@h:8000"]
)
def test_an_address_with_a_password_is_refused_without_telling_it(given: str) -> None:
    with pytest.raises(EndpointError, match=r"write 'h:8000.*the key goes into CORRAL_API_KEY") as told:
        address(given)
    assert "cret" not in str(told.value)


def test_models_of_corrals_own_kinds_have_two_names() -> None:
    corral = side("http://h", models=(MODEL, "tribunal", "tribunal/refine", "rag/manual"))
    for model, kind in (("refine", Kind.TRIBUNAL), ("tribunal/refine", Kind.TRIBUNAL), ("default", Kind.TRIBUNAL)):
        require(corral, model, kind)
    require(corral, "manual", Kind.RAG)
    require(side("http://h"), "anything")
    with pytest.raises(EndpointError, match="it has: tribunal, tribunal/refine"):
        require(corral, "jury", Kind.TRIBUNAL)
    with pytest.raises(EndpointError, match="it has: none"):
        require(side("http://h", models=(MODEL,)), "manual", Kind.RAG)


def test_a_point_that_does_not_fit_is_told() -> None:
    small = side("http://h", contexts={MODEL: 64})
    assert unfit(small, point(input_tokens=60, output_tokens=4)) is None
    assert unfit(small, point(model="other", input_tokens=600)) is None
    assert unfit(small, point(input_tokens=60, output_tokens=5)) == (
        "small takes 64 tokens; 60 of input and 5 of output are 65"
    )
    assert unfit(small, point(input_tokens=60, output_tokens=5, own_lengths=True)) is None


def test_the_models_to_look_at_are_those_that_chat() -> None:
    assert names([point(), point(model="b"), point(), point(model="manual", kind=Kind.RAG)]) == (MODEL, "b")


@pytest.mark.parametrize("tokenizes", [True, False])
async def test_prompts_have_the_tokens_that_were_asked_after_a_calibration(tokenizes: bool) -> None:
    """The fake model has two tokens a word and five for its template."""
    async with serving(Endpoint(tokenizes=tokenizes)) as url:
        found = await calibrate(side(url), MODEL)
    assert found is not None
    assert (found.words_per_token, found.template_tokens) == (0.5, 5)
    asked = workload_of("random", point(input_tokens=105), 1, 0.5, template_tokens=5).prompt(0)
    assert 2 * len(asked.text.split()) + 5 == 105


async def test_an_endpoint_that_counts_nothing_gives_no_calibration() -> None:
    async def silent(_: web.Request) -> web.Response:
        return web.json_response({"choices": []})

    async with serving(Endpoint(tokenizes=False, handlers={"/v1/chat/completions": silent})) as url:
        assert await calibrate(side(url), MODEL) is None
