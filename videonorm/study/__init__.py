"""Claims about normalization as experiments: a sweep, what its runs record, and a verdict on each claim."""
