"""What `convert` says of what it did."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Change:
    """A module that was swapped: its tensors that moved over, those that did not, and new ones, by name.

    Attributes:
        keeps_function: whether it computes in evaluation what the old one did, but for rounding.
    """

    name: str
    before: str
    after: str
    kept: tuple[str, ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...] = ()
    keeps_function: bool = False

    @property
    def summary(self) -> str:
        fates = {"keeps": self.kept, "drops": self.dropped, "adds": self.added}
        told = "".join(f", {verb} {' '.join(names)}" for verb, names in fates.items() if names)
        return f"{self.before} -> {self.after.partition('(')[0]}{told}"


@dataclass(frozen=True)
class Left:
    """A norm or convolution that was asked for and stays what it was."""

    name: str
    module: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` did: a row for each module in the order of the network, and `str()` of it to read."""

    changed: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def keeps_function(self) -> bool:
        """Whether the network computes in evaluation what it did."""
        return all(change.keeps_function for change in self.changed)

    def __str__(self) -> str:
        summaries = Counter(change.summary for change in self.changed)
        lines = [f"{count} x {summary}" for summary, count in summaries.items()]
        lines += [f"  {change.name}: {change.before} -> {change.after}" for change in self.changed]
        lines += [f"{len(self.left)} left as they were"]
        lines += [f"  {left.name}: {left.module}, {left.reason}" for left in self.left]
        return "\n".join(lines)
