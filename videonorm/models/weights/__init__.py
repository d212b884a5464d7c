"""Weights that others trained, for networks of ours: read from a file, renamed, loaded, with a report.

A file a layout: what a project calls its tensors, and which of a model's they are. `layouts.py` lists them;
`reading.py` gets tensors out of a file and runs no code of it; `matching.py` loads what fits and says what
does not.
"""
