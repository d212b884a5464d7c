"""Whether a process runs on that a test has seen."""

from videonorm.processes import stat


def runs(pid: int) -> bool:
    """A zombie, which nobody has asked for how it ended, does not."""
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"
