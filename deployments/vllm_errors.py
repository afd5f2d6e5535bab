"""What vLLM says went wrong, as one of our errors. Imports no vLLM.

An exception of vLLM's own must not leave a replica over its handle: to unpickle it, whoever asked would load vLLM,
which takes seconds and hundreds of MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.errors import BadRequest, EngineFailed, PromptTooLong, ServingError, UnknownModel

CLIENT_ERROR = "VLLMClientError"
"""vLLM's base of what is wrong with a request."""


def serving_error(told: Mapping[str, Any]) -> ServingError:
    """Of the `error` of one of its answers: {"message", "code" (an HTTP status), "param"}."""
    message, code, param = str(told.get("message")), told.get("code"), told.get("param")
    if code == 404:
        return UnknownModel(message)
    if code in (400, 422):
        if "context length" in message:
            return PromptTooLong(message, "messages" if param == "input_tokens" else param)
        return BadRequest(message, param)
    return EngineFailed(message)


def first_fault(error: ValueError) -> tuple[str, str | None]:
    """Message and field of pydantic's first error."""
    faults: list[Any] = getattr(error, "errors", list)()
    if not faults:
        return str(error), None
    place = ".".join(str(part) for part in faults[0]["loc"])
    return f"{place}: {faults[0]['msg']}", place or None


def as_ours(error: BaseException) -> ServingError:
    """Any exception; of one that nobody foresaw only the class is told."""
    if isinstance(error, ServingError):
        return error
    if any(cls.__name__ == CLIENT_ERROR for cls in type(error).__mro__):
        message = error.args[0] if error.args else error
        return serving_error({"message": message, "code": 400, "param": getattr(error, "parameter", None)})
    return EngineFailed(f"The engine failed on this request: {type(error).__name__}.")
