"""Limits: how much one key, or all keys of a group together, may ask for. What is not set is not bounded."""

from __future__ import annotations

from pydantic import Field

from deployments.config import Section


class Limits(Section):
    """Rates are over any 60 seconds."""

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1, description="Prompts and answers together.")
    concurrent_requests: int | None = Field(None, ge=1, description="Requests under way at once.")
    bulk_items: int | None = Field(None, ge=1, description="Items of bulk calls that are not answered yet.")
