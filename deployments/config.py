"""What a profile says about a model: its weights, its engine, its replicas.

Sizes are bytes (YAML may say "256 MiB"), durations are seconds, lengths are tokens.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, StringConstraints, model_validator

ModelId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
"""An id that is safe in a URL path, a Serve application name and an HAProxy map."""


class Section(BaseModel):
    """A frozen part of a profile that refuses unknown keys and names the valid ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_valid_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(unknown_key(str(key), cls.model_fields))
        return data


def unknown_key(key: str, valid: Any) -> str:
    """Say which key is unknown, the nearest valid one if any is near, and all valid ones."""
    near = difflib.get_close_matches(key, list(valid), n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {key!r}{hint}; valid keys: {', '.join(sorted(valid))}"


def label_resource(key: str, value: str) -> str:
    """The Ray resource that a node with this label offers, and that a worker placed by it takes a trifle of."""
    return f"corral:{key}={value}"


def application(model: str) -> str:
    """Name of the Serve application of a base model's deployed id; its deployment has the model's id as name."""
    return f"model-{model}"


class Autoscaling(Section):
    """Replicas follow the ongoing requests; with min_replicas 0 an idle model leaves no process.

    A jump from 1 to 64 users with a target of 24 is acted on after about 11 s: 4 until the mean shows it, up to 2 until
    Serve hears of it, and upscale_delay_s. A replica that is scaled down finishes what it has.
    """

    min_replicas: int = Field(1, ge=0)
    initial_replicas: int | None = Field(None, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(32, gt=0, description="For each replica, as the mean of ten seconds.")
    upscale_delay_s: float = Field(5, ge=0, description="With 5, twice the target for under 5 s starts nothing.")
    downscale_delay_s: float = Field(
        120, ge=0, description="Longer than a replica takes to start (30 to 100 s beside a full load on CPU), so that "
        "it is not ended and started again within one wave.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        first = self.min_replicas if self.initial_replicas is None else self.initial_replicas
        if not self.min_replicas <= first <= self.max_replicas:
            raise ValueError(
                f"replicas must be ordered min <= initial <= max, got "
                f"min_replicas={self.min_replicas}, initial_replicas={first}, max_replicas={self.max_replicas}"
            )
        return self


class Hardware(Section):
    """What one replica is placed on. A replica takes tensor_parallel * pipeline_parallel GPUs."""

    kind: Literal["cpu", "gpu"] = "gpu"
    gpu_type: str | None = Field(None, description="Ray accelerator type, for example A100, H100 or H200.")
    cpus: float = Field(1, gt=0, description="Logical CPUs for each worker of a replica.")
    strategy: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    resources: dict[str, float] = Field({}, description="Further Ray resources each worker needs.")
    labels: dict[str, str] = Field({}, description="Labels that the nodes must have, as cluster.groups gives them.")

    @model_validator(mode="after")
    def _gpu_type_needs_gpu(self) -> Hardware:
        if self.kind == "cpu" and self.gpu_type:
            raise ValueError("gpu_type is set but kind is cpu; set kind: gpu or drop gpu_type")
        return self


class Lora(Section):
    """Adapters over one base model; each is served under its own id."""

    adapters: dict[ModelId, str] = Field({}, description="Adapter id -> folder with adapter_config.json.")
    remote_path: str | None = Field(None, description="s3://, gs:// or abfss:// folder of adapters loaded on demand.")
    max_adapters: int = Field(4, ge=1)
    max_rank: int = Field(16, ge=1)


class ModelSpec(Section):
    """One served model. `source` is a hub id, a folder, or `pocket:NAME` for an embedded one."""

    id: ModelId
    source: str = Field(min_length=1)
    task: Literal["generate", "embed"] = "generate"
    context_tokens: int = Field(2048, ge=16, description="Longest prompt plus answer of one sequence.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: str | None = Field(None, description="vLLM's quantization, for example fp8.")
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    hardware: Hardware = Hardware()
    max_sequences: int = Field(64, ge=1, description="Sequences the engine runs at once.")
    kv_cache: ByteSize | None = Field(None, description="KV cache per worker; on GPUs the rest of memory if unset.")
    gpu_memory_utilization: float = Field(0.90, gt=0, le=0.98)
    eager: bool = Field(False, description="No compilation and no CUDA graphs: quick start, slower on GPUs.")
    autoscaling: Autoscaling = Autoscaling()
    max_ongoing_requests: int = Field(256, ge=1, description="Requests one replica takes before it queues.")
    max_queued_requests: int = Field(256, ge=0, description="Requests that may wait; more are refused with 429.")
    beside_quiet: float | None = Field(
        None, gt=0, le=1, description="Part of its sequences that a flooding key keeps while quieter ones ask; "
        "if unset, all on GPUs and an eighth on CPU, where each sequence more makes every token of all later.",
    )  # fmt: skip
    retry_after_s: int = Field(5, ge=1)
    tool_parser: str | None = Field("llama3_json", description="vLLM's tool-call parser; null turns tool calls off.")
    lora: Lora | None = None
    engine: dict[str, Any] = Field({}, description="Further vLLM engine arguments, passed as they are.")
    env: dict[str, str] = Field({}, description="Environment of the replica and its engine.")
    runtime_env: dict[str, Any] = Field({}, description="Further parts of Ray's runtime environment, for example pip.")
    generation: int = Field(0, ge=0, description="Counted by `corral apply`, which replaces a model by another of it.")

    @property
    def gpus(self) -> int:
        """GPUs of one replica (0 on CPU)."""
        return self.tensor_parallel * self.pipeline_parallel if self.hardware.kind == "gpu" else 0

    @property
    def deployed_id(self) -> str:
        """Tells a model's generations apart, which may be deployed side by side. No id has a colon."""
        return f"{self.id}:{self.generation}" if self.generation else self.id

    @property
    def app_name(self) -> str:
        """Name of the Serve application."""
        return application(self.deployed_id)

    @property
    def route_prefix(self) -> str:
        """Where Serve serves this model's vLLM app."""
        return f"/models/{self.deployed_id}"

    @property
    def served_ids(self) -> tuple[str, ...]:
        """The id itself, then its adapters': every `model` value that this application answers."""
        return (self.id, *(self.lora.adapters if self.lora else ()))
