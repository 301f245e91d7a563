"""Destinations of the metrics and sample grids of a training: a file, and dashboards."""
