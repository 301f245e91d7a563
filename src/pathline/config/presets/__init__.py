"""Runs by name."""
