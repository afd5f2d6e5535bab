"""Checks that the README says what is there."""
