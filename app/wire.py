"""The project's own REST, as types: what POST /generate and POST /bulk take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from deployments.chat import ChatReply, ChatRequest, Usage
from deployments.config import unknown_key


class Wire(BaseModel):
    """A part of a request: exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _name_the_valid_fields(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                text = unknown_key(key[:64], cls.model_fields).replace("key", "field")
                raise PydanticCustomError("unknown_field", "{text}", {"field": key[:64], "text": text})
        return data


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must hold more than white space")
    return text


Text = Annotated[str, Field(min_length=1, json_schema_extra={"pattern": r"\S"}), AfterValidator(_not_blank)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class TextPart(Wire):
    type: Literal["text"]
    text: Text


class Message(Wire):
    role: Literal["system", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]


class Sampling(Wire):
    """How to answer. What is left out (or null) is the model's default."""

    max_tokens: int | None = Field(None, ge=1, le=131_072)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="-1 or 0: all tokens.")
    min_p: float | None = Field(None, ge=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    response_format: dict[str, Any] | None = Field(None, description='OpenAI\'s, e.g. {"type": "json_object"}.')

    def params(self) -> dict[str, Any]:
        """The OpenAI parameters that were given."""
        return self.model_dump(include=set(Sampling.model_fields), exclude_none=True)


class Ask(Sampling):
    """One question to one model: a prompt, which becomes one user message, or messages."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]})

    model: str = Field(min_length=1)
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            extra = "prompt" if self.prompt is None else "messages"
            raise PydanticCustomError("one_of", "give exactly one of prompt and messages", {"field": extra})
        return self

    def to_chat(self, priority: int = 0) -> ChatRequest:
        prompt = [{"role": "user", "content": self.prompt}]
        messages = prompt if self.messages is None else [message.model_dump() for message in self.messages]
        return ChatRequest(tuple(messages), self.params(), priority)


class GenerateRequest(Ask):
    stream: bool = Field(False, description="Answer as server-sent events, the last of them [DONE].")


class BulkItem(Ask):
    id: Annotated[str, Field(max_length=256)] | None = Field(None, description="Echoed on the item's answer.")


class BulkRequest(Wire):
    """Items are validated one by one, so a wrong item is its own line's error."""

    items: list[SkipValidation[BulkItem]] = Field(min_length=1, description="At most limits.bulk.max_items.")
    model: Annotated[str, Field(min_length=1)] | None = Field(None, description="For items that name none.")
    defaults: Sampling = Field(Sampling(), description="For items that do not say otherwise.")
    stream: bool = Field(False, description="NDJSON lines as items finish; Accept: application/x-ndjson does the same.")


class UsageReply(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> UsageReply:
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
        )


class Answer(BaseModel):
    model: str
    text: str
    finish_reason: str = Field(description="stop, length or tool_calls.")
    usage: UsageReply
    reasoning_content: str | None = Field(None, description="Of a tribunal only: how the answer came about.")

    @classmethod
    def of(cls, reply: ChatReply) -> Answer:
        """Without reasoning_content where there is none; dumps leave out what is not set."""
        usage = UsageReply.of(reply.usage)
        more = {"reasoning_content": reply.reasoning} if reply.reasoning else {}
        return Answer(model=reply.model, text=reply.text, finish_reason=reply.finish_reason, usage=usage, **more)


class GenerateReply(Answer):
    id: str


class GenerateEvent(BaseModel):
    """One `data:` of a stream; the last one carries finish_reason and usage. After it comes [DONE]."""

    text: str
    reasoning_content: str | None = Field(
        None, description="Of a tribunal only: a piece of how the answer comes about."
    )
    finish_reason: str | None = None
    usage: UsageReply | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


class BulkLineReply(BaseModel):
    """What became of one item: a result or an error."""

    index: int
    id: str | None = None
    result: Answer | None = None
    error: ErrorDetail | None = None


class BulkSummary(BaseModel):
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class BulkReply(BaseModel):
    object: Literal["bulk"]
    items: list[BulkLineReply]
    summary: BulkSummary
