"""Pieces that backbones are made of; no backbone stands here."""
