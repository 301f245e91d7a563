"""Pixels <-> raw latents. The rows are in `table`; raw <-> x1 is in `normalise`."""
