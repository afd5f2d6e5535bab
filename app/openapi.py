"""What /openapi.json says beyond what FastAPI sees by itself: bodies read by hand, passed-on paths, error shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from app.streaming import SSE
from app.wire import BulkItem, BulkLineReply, BulkReply, BulkRequest, ErrorBody, GenerateEvent, GenerateReply
from app.wire import GenerateRequest as Generate

REF = "#/components/schemas/{model}"
DESCRIPTION = """Large language models behind one OpenAI-compatible address.

Everything vLLM's own server offers under `/v1` is here for every model: the body's `model` chooses. `/generate`,
`/bulk` and `/v1/tribunal` are the project's own. A tribunal, in which several models come to one answer, is also a
virtual model, `tribunal` or `tribunal/NAME`, of `/v1/chat/completions`, `/generate` and `/bulk`; there
`reasoning_content` tells how the answer came about. Every error has OpenAI's shape and names the wrong field."""

JsonDict = dict[str, Any]
Responses = dict[int | str, JsonDict]


def ref(model: type[BaseModel]) -> JsonDict:
    return {"$ref": REF.format(model=model.__name__)}


def content(media_type: str, schema: JsonDict, example: Any = None) -> JsonDict:
    """Of server-sent events `schema` is that of each one's data, but for OpenAI's last word."""
    if media_type == SSE:
        data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
        either = {"anyOf": [{"const": "[DONE]"}, data]}
        schema = {"type": "object", "required": ["data"], "properties": {"data": either}}
    return {media_type: {"schema": schema, **({} if example is None else {"example": example})}}


def error(description: str, message: str, kind: str, param: str | None, code: str) -> JsonDict:
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return {"description": description, "content": content("application/json", ref(ErrorBody), example)}


INVALID = "invalid_request_error"
ERRORS: Responses = {
    400: error(
        "The request is wrong; `param` names the field.",
        "max_tokens: Input should be less than or equal to 131072",
        "invalid_request_error",
        "max_tokens",
        "invalid_request",
    ),
    401: error(
        "No API key was given, or it is not taken.",
        "No API key was given: send 'Authorization: Bearer KEY', or x-api-key.",
        INVALID,
        None,
        "missing_api_key",
    ),
    403: error(
        "The API key may not do this.",
        "This API key may not do this; it needs the scope models:llama-3.1-8b.",
        INVALID,
        "model",
        "not_allowed",
    ),
    404: error(
        "No such model or path.",
        "The model 'llama' does not exist. Models here: llama-3.2-1b, llama-3.1-8b.",
        "invalid_request_error",
        "model",
        "model_not_found",
    ),
    408: error("The body was too slow.", "The request did not arrive in time.", INVALID, None, "body_timeout"),
    413: error("The body is too long.", "The body is larger than 8388608 bytes.", INVALID, None, "body_too_large"),
    429: error(
        "The model's queue is full, or the key's quota used up (`quota_...`); see Retry-After.",
        "The queue is full.",
        "rate_limit_error",
        None,
        "queue_full",
    ),
    503: error(
        "Nothing serves that model now.",
        "The model 'llama-3.1-8b' is failed: CUDA out of memory.",
        "server_error",
        None,
        "model_unavailable",
    ),
    "default": {
        "description": "Any other error: 405, 409, 415, 500, 502, 504 and 507 have this shape too.",
        "content": content("application/json", ref(ErrorBody)),
    },
}

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
MESSAGES = [{"role": "user", "content": "Where do the llamas sleep?"}]
CARD = {
    "id": "llama-3.1-8b",
    "object": "model",
    "created": 1767225600,
    "owned_by": "corral",
    "task": "generate",
    "state": "ready",
    "replicas": 1,
    "target_replicas": 1,
}
CARD_SCHEMA: JsonDict = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "task", "state", "replicas", "target_replicas"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "task": {"enum": ["generate", "embed"], "description": "What the model does."},
        "state": {"enum": ["starting", "ready", "idle", "failed", "stopping"]},
        "replicas": {"type": "integer"},
        "target_replicas": {"type": "integer"},
        "phase": {"type": "string", "description": "A finer word while starting."},
        "reason": {"type": "string", "description": "Why it failed."},
        "root": {"type": "string", "description": "Of an adapter: its base model."},
        "parent": {"type": "string", "description": "Of an adapter: its base model."},
    },
}
LIST_SCHEMA: JsonDict = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": CARD_SCHEMA}},
}
MODEL_CARD = {"description": "The model.", "content": content("application/json", CARD_SCHEMA, CARD)}
MODEL_LIST = {
    "description": "Every model and adapter, and after them the virtual models of the tribunals.",
    "content": content("application/json", LIST_SCHEMA, {"object": "list", "data": [CARD]}),
}


@dataclass(frozen=True)
class Passthrough:
    """A path of vLLM's own server, documented; its body is checked by vLLM."""

    path: str
    summary: str
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    required: tuple[str, ...]
    streams: bool = False
    tribunals: bool = False

    def route_options(self) -> JsonDict:
        virtual = " `tribunal` and `tribunal/NAME` are virtual ones." if self.tribunals else ""
        fields: JsonDict = {"model": {"type": "string", "description": f"An id of GET /v1/models.{virtual}"}}
        if self.streams:
            fields["stream"] = {"type": "boolean", "description": "Answer as server-sent events."}
        schema = {"type": "object", "required": ["model", *self.required], "properties": fields}
        answer = content("application/json", {"type": "object"}, self.response)
        events = content(SSE, {"description": "vLLM's events, each of them JSON."}) if self.streams else {}
        return {
            "summary": self.summary,
            "openapi_extra": body(content("application/json", schema, {"model": CARD["id"], **self.request})),
            "responses": {
                200: {
                    "description": "vLLM's answer; a tribunal's has its shape." if self.tribunals else "vLLM's answer.",
                    "content": answer | events,
                },
                **ERRORS,
            },
            "operation_id": self.path.strip("/").replace("/", "_"),
        }


def body(contents: JsonDict) -> JsonDict:
    return {"requestBody": {"required": True, "content": contents}}


PASSTHROUGH = (
    Passthrough(
        "/v1/chat/completions",
        "Chat with a model",
        {"messages": MESSAGES, "max_tokens": 64},
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": CARD["id"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "In the corral."}, "finish_reason": "stop"}
            ],
            "usage": USAGE,
        },
        ("messages",),
        streams=True,
        tribunals=True,
    ),
    Passthrough(
        "/v1/completions",
        "Continue a text",
        {"prompt": "Once upon a time", "max_tokens": 64},
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "choices": [{"index": 0, "text": " there was a llama.", "finish_reason": "stop"}],
            "usage": USAGE,
        },
        ("prompt",),
        streams=True,
    ),
    Passthrough(
        "/v1/responses",
        "Ask through the Responses API",
        {"input": "Where do the llamas sleep?"},
        {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "output": [
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "In the corral."}],
                }
            ],
        },
        ("input",),
        streams=True,
    ),
    Passthrough(
        "/v1/messages",
        "Ask through Anthropic's Messages API",
        {"messages": MESSAGES, "max_tokens": 64},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "In the corral."}],
        },
        ("messages", "max_tokens"),
        streams=True,
    ),
    Passthrough(
        "/v1/embeddings",
        "Embed texts (models with task: embed)",
        {"input": ["a llama", "a corral"]},
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}], "usage": USAGE},
        ("input",),
    ),
    Passthrough(
        "/tokenize",
        "Text or messages to token ids",
        {"prompt": "a llama"},
        {"count": 2, "max_model_len": 2048, "tokens": [12, 345]},
        (),
    ),
    Passthrough("/detokenize", "Token ids to text", {"tokens": [12, 345]}, {"prompt": "a llama"}, ("tokens",)),
)

_ASKED = {"model": CARD["id"], "prompt": "Where do the llamas sleep?", "max_tokens": 64}
_RESULT = {"model": CARD["id"], "text": "In the corral.", "finish_reason": "stop", "usage": USAGE}
GENERATE: JsonDict = {
    "summary": "Ask one model one thing",
    "openapi_extra": body(content("application/json", ref(Generate), _ASKED)),
    "responses": {
        200: {
            "description": "The answer, whole or as server-sent events.",
            "content": content("application/json", ref(GenerateReply), {"id": "gen-1", **_RESULT})
            | content(SSE, ref(GenerateEvent), 'data: {"text":"In the"}\n\ndata: [DONE]\n\n'),
        },
        **ERRORS,
    },
}
_ITEM_ERROR = ERRORS[400]["content"]["application/json"]["example"]["error"]
_LINES = [{"index": 0, "id": "a", "result": _RESULT}, {"index": 1, "error": _ITEM_ERROR}]
_SUMMARY = {"total": 2, "succeeded": 1, "failed": 1, "prompt_tokens": 9, "completion_tokens": 4}
BULK: JsonDict = {
    "summary": "Ask up to 10,000 things, each with its own model and parameters",
    "description": "Runs behind interactive requests. Answers in the order of the items as JSON; or, with `stream` or "
    "`Accept: application/x-ndjson`, a line for each item as it finishes, with its index and nothing else. A wrong or "
    "failed item is that line's error. A request body of application/x-ndjson has one item a line.",
    "openapi_extra": body(
        content("application/json", ref(BulkRequest), {"items": [{"id": "a", **_ASKED}, {**_ASKED, "max_tokens": 0}]})
        | content("application/x-ndjson", ref(BulkItem))
    ),
    "responses": {
        200: {
            "description": "What became of every item.",
            "content": content(
                "application/json", ref(BulkReply), {"object": "bulk", "items": _LINES, "summary": _SUMMARY}
            )
            | content("application/x-ndjson", ref(BulkLineReply)),
        },
        **ERRORS,
    },
}
KEYS: JsonDict = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service asks for one."},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_ROW = {"day": "2026-11-21", "key": "t327y67n", "name": "ana", "model": CARD["id"], "requests": 3, "refused": 0}
USAGE_OF_KEYS: JsonDict = {
    "tags": ["Operations"],
    "summary": "What was used: of the key that asks, with the scope admin of all",
    "operationId": "v1_usage",
    "parameters": [
        {"name": name, "in": "query", "required": False, "description": told, "schema": {"type": "string", **shape}}
        for name, told, shape in (
            ("since", "The first day.", {"format": "date"}),
            ("until", "The last day.", {"format": "date"}),
            ("key", "The id of one key.", {}),
            ("by", "Some of day, key, group and model.", {"default": "day,key,model"}),
        )
    ],
    "responses": {
        "200": {
            "description": "A row for each.",
            "content": content("application/json", {"type": "object"}, {"object": "usage", "data": [_ROW]}),
        },
        **{str(status): told for status, told in ERRORS.items()},
    },
}
ASKED: tuple[type[BaseModel], ...] = (Generate, BulkRequest, BulkItem)
ANSWERED: tuple[type[BaseModel], ...] = (GenerateReply, GenerateEvent, BulkReply, BulkLineReply, ErrorBody)


def describe(app: FastAPI, asked: Sequence[type[BaseModel]] = (), answered: Sequence[type[BaseModel]] = ()) -> JsonDict:
    """The OpenAPI document, with the schemas of the bodies that routes read by hand: those here, and more."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        shown: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in (*ASKED, *asked)]
        shown += [(model, "serialization") for model in (*ANSWERED, *answered)]
        _, schemas = models_json_schema(shown, ref_template=REF)
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        document["components"]["securitySchemes"] = KEYS
        document["security"] = [*({name: []} for name in KEYS), {}]
        document["paths"]["/v1/usage"] = {"get": USAGE_OF_KEYS}
        app.openapi_schema = document
    return app.openapi_schema
