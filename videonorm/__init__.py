"""Longer clips or larger batches: what a GPU's frames are best spent on, for each normalization."""

__version__ = "0.1.0"
