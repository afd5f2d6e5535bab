"""Deploy a profile on the Ray that $RAY_ADDRESS names, then end: Serve keeps the applications.

A process of its own, since building a model's application imports vLLM (7 s, 0.6 GB) and nothing else here needs it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from app.applications import build_gateway, build_retrieval, build_tribunal
from app.retrieval.resolved import with_documents
from app.serve_config import GATEWAY, RETRIEVAL, TRIBUNAL
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.herd import short_reason


def deploy(settings: Settings, host: str, port: int) -> dict[str, str]:
    """Deploy all applications without waiting for them; returns the models that could not be, and why."""
    settings = with_documents(settings)
    targets, failures = model_targets(settings)
    gateway, *beside = system_targets(settings, host, port, failures)
    serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host=host, port=port))
    run([gateway, *targets, *beside])
    return failures


def run(targets: list[serve.RunTarget]) -> None:
    """Deploy without waiting; what is deployed under the same name is told what has changed."""
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def system_targets(settings: Settings, host: str, port: int, failures: dict[str, str]) -> list[serve.RunTarget]:
    """The applications that are no model's, the gateway first. The settings are with documents."""
    gateway = build_gateway(settings, host, port, failures)
    return [
        serve.RunTarget(gateway, name=GATEWAY, route_prefix="/"),
        serve.RunTarget(build_tribunal(settings, failures), name=TRIBUNAL, route_prefix=None),
        serve.RunTarget(build_retrieval(settings), name=RETRIEVAL, route_prefix=None),
    ]


def model_targets(settings: Settings) -> tuple[list[serve.RunTarget], dict[str, str]]:
    """The models' applications, and those that cannot be deployed -> why."""
    targets, failures = [], {}
    for spec in settings.specs:
        try:
            targets.append(_target(spec, settings))
        except Exception as error:
            failures[spec.id] = short_reason(f"{type(error).__name__}: {error}")
    return targets, failures


def _target(spec: ModelSpec, settings: Settings) -> serve.RunTarget:
    from deployments.models import build_model

    model = build_model(spec, settings.gateway.max_body, settings.traces)
    return serve.RunTarget(model, name=spec.app_name, route_prefix=spec.route_prefix)


def main(settings_file: str, host: str, port: str) -> None:
    """Import what takes seconds while Ray starts, wait for a line on standard input, deploy."""
    settings = Settings.model_validate_json(Path(settings_file).read_text())
    importlib.import_module("deployments.models")
    if not sys.stdin.readline():
        return
    ray.init(log_to_driver=False, namespace="serve")
    for model, reason in deploy(settings, host, int(port)).items():
        sys.stderr.write(f"{model} cannot be deployed: {reason}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
