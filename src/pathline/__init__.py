"""pathline: flows that carry noise to pictures, trained, sped up, tuned, measured and served."""

__version__ = "0.1.0"
