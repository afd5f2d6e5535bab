"""What a profile says about traces: where spans go, and of how many requests."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from deployments.config import Section

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,4096}$")]
URL = r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$"
SIGNAL_PATH = "/v1/traces"


class TracesConfig(Section):
    """A collector that takes OTLP over HTTP. Of requests that clients trace themselves, they say which are traced."""

    endpoint: str = Field(pattern=URL, description="For example http://collector:4318; /v1/traces is put behind it.")
    sample: float = Field(0.1, ge=0, le=1, description="Part of the requests that is traced; decided at the edge.")
    headers: dict[HeaderName, HeaderValue] = Field({}, repr=False, description="Sent to the collector.")
    timeout_s: float = Field(5, gt=0, le=60, description="Of one batch to the collector.")
    queue: int = Field(2048, ge=64, le=1 << 17, description="Spans that a process keeps; those beyond are dropped.")

    @field_validator("endpoint")
    @classmethod
    def _without_the_signal(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix(SIGNAL_PATH)

    @property
    def url(self) -> str:
        """Where batches are sent."""
        return f"{self.endpoint}{SIGNAL_PATH}"
