"""RagConfig: what a profile says about documents, their index, and how they are answered from.

Sizes are bytes (YAML may say "64 MiB"), durations are seconds.
"""

from __future__ import annotations

import difflib
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

MIB = 1 << 20
MINILM = "minilm"
"""The embedded default: all-MiniLM-L6-v2."""
IndexKind: TypeAlias = Literal["auto", "flat", "hnsw", "ivf"]
Mode: TypeAlias = Literal["fused", "dense", "bm25"]


class Section(BaseModel):
    """A frozen part of a profile that refuses unknown keys and names the valid ones.

    The twin of the deployments' Section: a leaf imports nothing of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_valid_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), list(cls.model_fields), n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"unknown key {str(key)!r}{hint}; valid keys: {', '.join(sorted(cls.model_fields))}")
        return data


class EmbeddingConfig(Section):
    """The model that turns text into vectors."""

    model: str = Field(MINILM, min_length=1, description="minilm, a Hugging Face id (owner/name), or a folder.")
    max_tokens: int | None = Field(None, ge=8, description="Longest text; the model's own limit if unset.")
    pooling: Literal["auto", "mean", "cls"] = Field("auto", description="auto: as the model's own files say.")
    query_prefix: str = Field("", description="Some models want one, for example 'query: '.")
    passage_prefix: str = Field("", description="For example 'passage: '.")
    batch_size: int = Field(32, ge=1, le=1024)
    device: str = Field("cpu", description="cpu, or for example cuda:0.")
    threads: int | None = Field(None, ge=1, description="Of the embedding model on a CPU; all cores if unset.")


class SplitConfig(Section):
    """How documents are cut into passages, in characters."""

    target_chars: int = Field(800, ge=100, le=20_000, description="A passage is filled up to about this length.")
    max_chars: int = Field(1200, ge=100, le=40_000, description="No passage is longer.")
    overlap_chars: int = Field(0, ge=0, le=2000, description="Where a long paragraph is cut, at sentences.")

    @model_validator(mode="after")
    def _ordered(self) -> SplitConfig:
        if not self.overlap_chars < self.target_chars <= self.max_chars:
            raise ValueError(
                "overlap_chars < target_chars <= max_chars is needed, got "
                f"{self.overlap_chars}, {self.target_chars}, {self.max_chars}"
            )
        return self


class FileLimits(Section):
    """What one document may cost."""

    max_file: ByteSize = Field(ByteSize(100 * MIB), gt=0, description="Of the file as it lies there.")
    max_unpacked: ByteSize = Field(ByteSize(400 * MIB), gt=0, description="Of a docx, unpacked.")
    max_text: int = Field(20_000_000, ge=1, description="Characters of text.")
    max_pages: int = Field(5000, ge=1, description="Of a pdf.")
    seconds: float = Field(120, gt=0, description="To read one file; then it is given up.")


class SearchConfig(Section):
    """How passages are found."""

    index: IndexKind = Field("auto", description="auto: flat, from many passages on an approximate one; status says.")
    mode: Mode = "fused"
    top_k: int = Field(5, ge=1, le=100, description="Passages that are found.")
    candidates: int = Field(50, ge=1, le=1000, description="Of each of the two searches, before they are fused.")
    rrf_k: int = Field(60, ge=1, description="The constant of reciprocal rank fusion.")
    mmr_lambda: float | None = Field(None, ge=0, le=1, description="Maximal marginal relevance; 1 is relevance alone.")
    reranker: str | None = Field(None, min_length=1, description="A cross-encoder: an id or a folder.")
    rerank_candidates: int = Field(20, ge=1, le=200)


class SessionConfig(Section):
    """Conversations that are kept."""

    max_age_s: float = Field(30 * 86_400, gt=0, description="After the last turn.")
    max_turns: int = Field(200, ge=1)
    max_per_owner: int = Field(1000, ge=1, description="Then the oldest goes.")


class RagConfig(Section):
    """The `rag` section of a profile."""

    folder: str | None = Field(None, description="Where collections and sessions lie.")
    embedding: EmbeddingConfig = EmbeddingConfig()
    split: SplitConfig = SplitConfig()
    files: FileLimits = FileLimits()
    search: SearchConfig = SearchConfig()
    sessions: SessionConfig = SessionConfig()
    model: str | None = Field(None, description="The model or tribunal that answers; the profile's last if unset.")
    wording: Literal["general", "pocket"] = Field("general", description="pocket: the embedded models' few sentences.")
    floor: float = Field(
        0.2, ge=-1, le=1, description="Least cosine of the best passage, reranked or not; below it is refused."
    )
    max_tokens: int = Field(512, ge=1, description="Of an answer.")
    max_searches: int = Field(4, ge=1, le=20, description="In the agentic mode.")
    history_turns: int = Field(6, ge=0, le=100, description="Earlier turns that a follow-up question is read with.")
    max_upload: ByteSize = Field(ByteSize(256 * MIB), gt=0, description="All files of one upload over REST together.")
    max_collections: int = Field(256, ge=1)
    versions_kept: int = Field(2, ge=1, le=20)
