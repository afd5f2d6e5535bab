"""Settings -> Serve applications: one for each model, and the gateway at /.

`serve deploy` reaches the builders by import path with plain arguments (see serve_config); `corral up` calls them.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.deployment import Application

from app.gateway import Gateway
from app.serve_config import GATEWAY, RETRIEVAL, TRIBUNAL
from app.settings import Settings
from deployments.config import ModelSpec
from deployments.replicas import kept_running
from deployments.retrieval.server import RetrievalServer
from deployments.tracing_config import TracesConfig
from deployments.tribunal.server import TribunalServer

TRIBUNAL_REQUESTS = 1024
"""More than runs can be at work, so that one can always be stopped."""
RETRIEVAL_REQUESTS = 512
BESIDE_THE_EDGE = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
"""On the head's node, with the edge and Serve's own proxy, which passes on what has no replica yet."""


def build_gateway(settings: Settings, host: str, port: int, failures: dict[str, str]) -> Application:
    """The gateway application; `host` and `port` are where Serve listens, and with it the models' own apps."""
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        num_replicas=settings.gateway.replicas,
        max_ongoing_requests=settings.gateway.max_ongoing_requests,
        ray_actor_options=BESIDE_THE_EDGE,
        health_check_period_s=5,
        user_config={"settings": settings.model_dump_json()},
    )
    return kept_running(deployment.bind(settings.model_dump_json(), host, port, failures))


def _lone(server: type[Any], name: str, requests: int, told: dict[str, Any]) -> serve.Deployment:
    """A deployment of one replica, beside the edge, under its application's name. told: again when it changes."""
    return serve.deployment(
        server,
        name=name,
        num_replicas=1,
        max_ongoing_requests=requests,
        max_queued_requests=requests,
        ray_actor_options=BESIDE_THE_EDGE,
        health_check_period_s=5,
        user_config=told,
    )


def build_tribunal(settings: Settings, failures: dict[str, str]) -> Application:
    """The application in which tribunals run; it has no HTTP of its own."""
    specs = {name: spec.model_dump(mode="json", exclude_unset=True) for name, spec in settings.tribunals.items()}
    models = tuple(spec.model_dump(mode="json") for spec in settings.specs)
    deployment = _lone(TribunalServer, TRIBUNAL, TRIBUNAL_REQUESTS, {"specs": specs, "models": models})
    return kept_running(deployment.bind(specs, models, failures, settings.traces))


def build_retrieval(settings: Settings) -> Application:
    """The application that answers from documents; it has no HTTP of its own. The settings say where they lie."""
    models = tuple(spec.model_dump(mode="json") for spec in settings.specs)
    tribunals = {name: spec.model_dump(mode="json", exclude_unset=True) for name, spec in settings.tribunals.items()}
    told = {"models": models, "tribunals": tribunals, "model": settings.rag.model}
    deployment = _lone(RetrievalServer, RETRIEVAL, RETRIEVAL_REQUESTS, told)
    rag = settings.rag.model_dump(mode="json")
    return kept_running(deployment.bind(rag, models, tribunals, TRIBUNAL, settings.traces))


def retrieval_application(args: dict[str, Any]) -> Application:
    """`serve deploy`'s way to the documents. args: settings (mapping)."""
    return build_retrieval(Settings(**args["settings"]))


def tribunal_application(args: dict[str, Any]) -> Application:
    """`serve deploy`'s way to the tribunals. args: settings (mapping)."""
    return build_tribunal(Settings(**args["settings"]), {})


def gateway_application(args: dict[str, Any]) -> Application:
    """`serve deploy`'s way to the gateway. args: settings (mapping), serve_host, serve_port."""
    return build_gateway(Settings(**args["settings"]), args["serve_host"], args["serve_port"], {})


def model_application(args: dict[str, Any]) -> Application:
    """`serve deploy`'s way to one model. args: spec (mapping), max_body (bytes), traces (mapping, or None)."""
    from deployments.models import build_model

    traces = TracesConfig(**args["traces"]) if args.get("traces") else None
    return build_model(ModelSpec(**args["spec"]), args["max_body"], traces)
