"""The cache of latents, text states and features: plan, build, read."""
