"""Attacks on a running service, and what others notice of them."""
