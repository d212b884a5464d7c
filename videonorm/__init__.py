"""videonorm: what a GPU's frames are best spent on, longer clips or larger batches, for each normalization."""

__version__ = "0.1.0"
