"""What a run keeps of the profile that is measured: all that the figures depend on, and nothing that may be secret."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.settings import Settings, load_settings
from app.state import read_state
from deployments.config import ModelSpec
from deployments.engine import CPU_ENVIRONMENT, ENVIRONMENT, engine_arguments
from loadtests.report.words import without_password

LONGEST = 64 << 10
"""Characters; of a larger profile only the models' names are kept."""
SECRET = re.compile(r"(^|[_-])(token|key|secret|password|credentials?)$", re.IGNORECASE)


def settings_of(name: str, url: str | None, profile: str | None) -> Settings | None:
    """Those of a profile, else of the running service of that name; None for an address of which no more is known."""
    if profile is not None:
        return load_settings(profile)
    state = read_state(name) if url is None else None
    if state is None:
        return None
    try:
        return Settings.model_validate_json((Path(state.run_dir) / "settings.json").read_text())
    except (OSError, ValueError):
        return None


def configuration_of(settings: Settings | None, models: Sequence[str]) -> dict[str, object]:
    """The measured models of a profile, as the record of a run has them."""
    if settings is None:
        return {}
    found: dict[str, object] = {"models": {spec.id: _model(spec) for spec in _measured(settings, models)}}
    text = without_password(json.dumps(found, default=str))
    if len(text) > LONGEST:
        return {"models": list(models), "left out": f"the profile has {len(text):,} characters"}
    kept: dict[str, object] = json.loads(text)
    return kept


def gpus_of(settings: Settings | None, models: Sequence[str]) -> dict[str, float]:
    """GPUs behind each measured model of which that is known: on GPUs its replicas must not vary."""
    found: dict[str, float] = {}
    for spec in _measured(settings, models) if settings else ():
        scaling = spec.autoscaling
        if not spec.gpus or scaling.min_replicas == scaling.max_replicas:
            found |= {model: spec.gpus * scaling.max_replicas for model in spec.served_ids if model in models}
    return found


def _measured(settings: Settings, models: Sequence[str]) -> list[ModelSpec]:
    return [spec for spec in settings.models.values() if set(spec.served_ids) & set(models)]


def _model(spec: ModelSpec) -> dict[str, Any]:
    """`env` has the names alone, for a person's own variables may be keys; vLLM's that Corral sets are told."""
    said = spec.model_dump(mode="json", exclude={"id", "env", "runtime_env", "engine"}, exclude_defaults=True)
    environment = ENVIRONMENT | (CPU_ENVIRONMENT if spec.hardware.kind == "cpu" else {})
    found: dict[str, Any] = _told(
        said
        | {
            "engine": engine_arguments(spec),
            "environment": {name: value for name, value in environment.items() if name not in spec.env},
            "env": sorted(spec.env),
        }
    )
    return found


def _told(value: Any) -> Any:
    """Without secrets, and without what is empty."""
    if isinstance(value, Mapping):
        kept = {name: each for name, each in value.items() if each not in ([], {}, ())}
        return {name: "(not told)" if SECRET.search(str(name)) else _told(each) for name, each in kept.items()}
    return [_told(each) for each in value] if isinstance(value, list | tuple) else value
