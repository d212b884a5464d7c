"""A checkpoint leaves the project and is judged as an artifact: export, load, evaluate. Without Lightning.

Nothing is imported here: the commands are in this package, and their --help answers without torch.
"""
