"""Composition: settings, the gateway, the edge, the command line."""
