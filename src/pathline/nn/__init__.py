"""Layers that backbones and codecs are built of: attention, patches, modulation, positions."""
