"""How many replicas a model needs: Serve's own policy, where every bulk item counts as a request.

Serve's controller imports this by name; it imports nothing of Ray's.
"""

from __future__ import annotations

from typing import Any

BULK_ITEMS = "corral_bulk_items"
"""What a replica tells besides: items that it has, less the calls they came in, which Serve counts itself."""
POLICY = "deployments.scaling_policy:replicas_for"


def replicas_for(context: Any) -> tuple[float, dict[str, Any]]:
    """Of ray.serve.config.AutoscalingContext: requests and items over the target, before delays and bounds."""
    if not context.current_num_replicas:
        return context.target_num_replicas, {}
    items = sum((context.aggregated_metrics or {}).get(BULK_ITEMS, {}).values())
    wanted = (context.total_num_requests + items) / context.config.get_target_ongoing_requests()
    return wanted, {}
