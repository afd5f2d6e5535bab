"""Settings: one YAML profile, the environment on top, everything checked before anything starts.

A profile is a built-in name (app/profiles/NAME.yaml) or a file. It may say `extends: pocket` (a name or a file)
and then holds only what differs; a model set to null is left out. CORRAL_EDGE__PORT=9000 overrides edge.port, and
CORRAL_MODELS__LLAMA_3_1_8B__CONTEXT_TOKENS=4096 the model llama-3.1-8b's: letter case does not matter there, and
`-` and `.` of an id are written `_`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.access.config import AccessConfig
from app.overrides import overrides
from app.profile import PROFILES, Layer, SettingsError, absolute, deep_merge, merged, origin, read_layers, unwritable
from deployments.config import ModelId, ModelSpec, Section, unknown_key
from deployments.pocket import CHECKPOINTS, PEERS, SIZES
from deployments.tracing_config import TracesConfig
from deployments.tribunal.config import PREFIX, TribunalName, TribunalSpec, loop, tribunal_name, virtual_id
from rag.config import RagConfig
from slurm.config import ClusterConfig

__all__ = ["PROFILES", "Settings", "SettingsError", "load_settings", "resolve_source"]

MIB = 1 << 20
POCKET = "pocket:"


class GatewayConfig(Section):
    """The gateway application: /v1/models, /generate, /bulk, the tribunal, the chat page."""

    replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(512, ge=1)
    max_body: ByteSize = Field(ByteSize(8 * MIB), gt=0)


class BulkConfig(Section):
    """Many prompts in one request; they wait behind interactive ones (vLLM: lower priority numbers go first)."""

    max_items: int = Field(10_000, ge=1)
    max_in_flight: int | None = Field(
        None, ge=1, description="Items at work at once, for each model, over all bulk requests; "
        "if unset, as many as keep all of its replicas full.",
    )  # fmt: skip
    max_body: ByteSize = Field(ByteSize(64 * MIB), gt=0)
    priority: int = Field(10, ge=0)


class EdgeConfig(Section):
    """The HAProxy that clients talk to."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    max_connections: int = Field(16_384, ge=1)
    bufsize: ByteSize = Field(ByteSize(512 * 1024), gt=0, description="Largest body routed without the gateway.")
    connect_timeout_s: float = Field(5, gt=0)
    queue_timeout_s: float = Field(30, gt=0)
    idle_timeout_s: float = Field(600, gt=0, description="Longest silence of a stream or of a model that starts.")


class RayConfig(Section):
    """The Ray that `corral up` starts."""

    cpus: float | None = Field(None, gt=0, description="Logical CPUs it offers; the host's if unset.")
    object_store: ByteSize = Field(ByteSize(256 * MIB), ge=80 * MIB)
    include_dashboard: bool = False
    environment: dict[str, str] = Field({}, description="Further environment variables of every Ray process.")


class Settings(BaseSettings):
    """A whole profile. Built directly it reads neither files nor the environment: `load_settings` does."""

    model_config = SettingsConfigDict(
        env_prefix="CORRAL_", env_nested_delimiter="__", frozen=True, extra="forbid", protected_namespaces=()
    )

    models: dict[ModelId, ModelSpec]
    gateway: GatewayConfig = GatewayConfig()
    bulk: BulkConfig = BulkConfig()
    edge: EdgeConfig = EdgeConfig()
    access: AccessConfig = AccessConfig()
    ray: RayConfig = RayConfig()
    cluster: ClusterConfig | None = None
    tribunals: dict[TribunalName, TribunalSpec] = {}
    rag: RagConfig = RagConfig()
    traces: TracesConfig | None = None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _name_the_valid_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(unknown_key(str(key), cls.model_fields))
        return data

    @field_validator("models", mode="before")
    @classmethod
    def _key_is_id(cls, models: Any) -> Any:
        if not isinstance(models, dict):
            return models
        for key in models:
            if not isinstance(key, str):
                raise ValueError(f"the id {key!r} is not text; put it in quotes")
        return {key: _with_id(key, spec) for key, spec in models.items()}

    @field_validator("models")
    @classmethod
    def _ids_are_unique(cls, models: dict[str, ModelSpec]) -> dict[str, ModelSpec]:
        if not models:
            raise ValueError("at least one model is needed, for example `my-llama: {source: pocket:pocket-1b}`")
        owners: dict[str, str] = {}
        for key, spec in models.items():
            for served in spec.served_ids:
                if owners.setdefault(served, key) != key or spec.served_ids.count(served) > 1:
                    raise ValueError(f"the id {served!r} is used twice, by {owners[served]!r} and {key!r}")
                if served == PREFIX:
                    raise ValueError(f"the id {served!r} is the default tribunal's; call the model otherwise")
        return models

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """The models in the profile's order, each `source` a hub id or an absolute folder."""
        return tuple(
            spec.model_copy(update={"source": resolve_source(spec, Path.cwd())}) for spec in self.models.values()
        )

    def to_yaml(self) -> str:
        """A profile that loads into equal settings; defaults are left out."""
        data = self.model_dump(mode="json", exclude_defaults=True, exclude={"models": {"__all__": {"id"}}})
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Escapes the line breaks of Unicode, which YAML would read as other ones."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if re.search("[\x85\u2028\u2029]", text) else None
    ),
)


def _with_id(key: Any, spec: Any) -> Any:
    if isinstance(spec, dict) and spec.get("id", key) == key:
        return {**spec, "id": key}
    if (isinstance(spec, ModelSpec) and spec.id == key) or not isinstance(spec, dict | ModelSpec):
        return spec
    raise ValueError(f"the model {key!r} must not say another id; drop its `id`")


def load_settings(profile: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read a profile (default: $CORRAL_PROFILE, else pocket) and the environment. Raises SettingsError."""
    environ = os.environ if environ is None else environ
    files = read_layers(profile or environ.get("CORRAL_PROFILE") or "pocket")
    variables = overrides(Settings, environ, merged(files))
    layers = [*files, *variables]
    together: dict[str, Any] = {}  # or the one that drops a model would go before the one that needs it no more
    for variable in variables:
        together = deep_merge(together, variable.data)
    try:
        settings = Settings(**merged([*files, Layer("environment", together)]))
    except ValidationError as error:
        raise SettingsError(*_explain(error, layers)) from None
    if problems := [
        *(f"{layer.name}: {problem}" for layer in layers for problem in unwritable(layer.data)),
        *_source_problems(settings, layers),
        *_tribunal_problems(settings, layers),
        *_rag_problems(settings, layers),
    ]:
        raise SettingsError(*problems)
    return settings


def resolve_source(spec: ModelSpec, base: Path) -> str:
    """`pocket:NAME` -> its checkpoint folder; ./x, ../x, ~/x, /x -> an absolute path (from `base`); else a hub id."""
    if spec.source.startswith(POCKET):
        return str(CHECKPOINTS / spec.source.removeprefix(POCKET))
    return absolute(spec.source, base)


def _source_problems(settings: Settings, layers: list[Layer]) -> list[str]:
    problems = []
    for key, spec in settings.models.items():
        problem = _source_problem(spec)
        if problem:
            problems.append(f"{origin(layers, ('models', key, 'source'))}: models.{key}.source: {problem}")
    return problems


def _answering(settings: Settings) -> list[str]:
    """Ids of all that chats."""
    chatting = [served for spec in settings.models.values() if spec.task == "generate" for served in spec.served_ids]
    return [*chatting, *map(virtual_id, settings.tribunals)]


def _tribunal_problems(settings: Settings, layers: list[Layer]) -> list[str]:
    """Members that are no models here, and tribunals that ask themselves."""
    known = _answering(settings)
    problems = []
    for name, spec in settings.tribunals.items():
        where = f"{origin(layers, ('tribunals', name))}: tribunals.{name}"
        for member in spec.seats:
            inner = tribunal_name(member.model)
            if member.model not in known and inner not in settings.tribunals:
                problems.append(f"{where}: no model {member.model!r} chats here; there are {', '.join(known)}")
        if way := loop(name, spec, settings.tribunals):
            problems.append(f"{where}: it asks itself: {' -> '.join(way)}")
    return problems


def _rag_problems(settings: Settings, layers: list[Layer]) -> list[str]:
    """A model that answers from documents and is none here."""
    model, known = settings.rag.model, _answering(settings)
    if model is None or model in known:
        return []
    where = f"{origin(layers, ('rag', 'model'))}: rag.model"
    return [f"{where}: no model {model!r} chats here; there are {', '.join(known)}"]


def _source_problem(spec: ModelSpec) -> str | None:
    """Why this source cannot be served, or None. Hub ids are only looked at, not looked up."""
    source = spec.source
    if source.startswith(POCKET) and source.removeprefix(POCKET) not in (*SIZES, *PEERS):
        return f"no embedded model {source!r}; there are {', '.join(POCKET + size for size in (*SIZES, *PEERS))}"
    folder = Path(resolve_source(spec, Path.cwd()))
    if not folder.is_absolute():
        return _hub_id_problem(source)
    try:
        if not folder.is_dir():
            return f"there is no folder {folder}"
        if not (folder / "config.json").is_file():
            return f"{folder} has no config.json, so it is not a Hugging Face checkpoint"
    except OSError as error:  # a name may be too long, a folder closed
        return f"{folder} cannot be looked into: {error.strerror}"
    return None


def _hub_id_problem(source: str) -> str | None:
    if "://" in source or (source.count("/") == 1 and all(source.split("/")) and " " not in source):
        return None
    return f"{source!r} is neither a hub id (owner/name) nor a folder (write ./{source} for one beside the profile)"


def _explain(error: ValidationError, layers: list[Layer]) -> list[str]:
    """One line for each problem: where it was written, which key, what is wrong."""
    lines = []
    for problem in error.errors(include_url=False):
        path = tuple(str(part) for part in problem["loc"] if part != "[key]")
        message = _wording(problem["type"], problem["msg"], problem.get("input"))
        lines.append(f"{origin(layers, path, message)}: {'.'.join(path)}{': ' if path else ''}{message}")
    return lines


def _wording(kind: str, message: str, given: Any) -> str:
    if kind == "missing":
        return "this key is required, but missing"
    if kind == "string_pattern_mismatch" and (id_like := re.search(r"\._-\]\{0,(\d+)\}", message)):
        longest = int(id_like[1]) + 1
        return f"{given!r} is not an id: letters, digits, '.', '_' and '-', at most {longest}, a letter or digit first"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"this must hold keys and values, not {given!r}"
    if kind.startswith("byte_size"):
        return f"{given!r} is not a size; write bytes, or for example 256 MiB"
    text = message.removeprefix("Value error, ")
    return text if kind == "value_error" else f"{text[:1].lower()}{text[1:]} (got {given!r})"
