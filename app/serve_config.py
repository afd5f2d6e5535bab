"""A Ray Serve config for a profile: plain data, made without Ray."""

from __future__ import annotations

from typing import Any

from app.retrieval.resolved import with_documents
from app.settings import Settings

GATEWAY = "gateway"
TRIBUNAL = "tribunal"
RETRIEVAL = "retrieval"
"""Names of applications that are no model's."""
DEFAULT_PORT = 8000


def serve_config(settings: Settings, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> dict[str, Any]:
    """A config file for `serve deploy` that brings up the same applications on any Ray cluster."""
    settings = with_documents(settings)
    gateway = {
        "name": GATEWAY,
        "route_prefix": "/",
        "import_path": "app.applications:gateway_application",
        "args": {"settings": settings.model_dump(mode="json"), "serve_host": host, "serve_port": port},
    }
    tribunal = {
        "name": TRIBUNAL,
        "route_prefix": None,
        "import_path": "app.applications:tribunal_application",
        "args": {"settings": settings.model_dump(mode="json")},
    }
    retrieval = {
        "name": RETRIEVAL,
        "route_prefix": None,
        "import_path": "app.applications:retrieval_application",
        "args": {"settings": settings.model_dump(mode="json")},
    }
    models = [
        {
            "name": spec.app_name,
            "route_prefix": spec.route_prefix,
            "import_path": "app.applications:model_application",
            "args": {
                "spec": spec.model_dump(mode="json"),
                "max_body": int(settings.gateway.max_body),
                "traces": settings.traces.model_dump(mode="json") if settings.traces else None,
            },
        }
        for spec in settings.specs
    ]
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": host, "port": port},
        "applications": [gateway, *models, tribunal, retrieval],
    }
