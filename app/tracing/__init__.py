"""Traces of requests at the edge and in the gateway."""
