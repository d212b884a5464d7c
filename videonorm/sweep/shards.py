"""Shards divide a sweep, each a `videonorm sweep` of its own, on any machine that shares the folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command's help imports nothing heavy
    from videonorm.sweep.plan import Run


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, counted from 0; part 0 of 1 is the whole sweep."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"shard {self.index}/{self.count}" if self.count > 1 else "a sweep"

    def runs(self, runs: Sequence[Run]) -> list[Run]:
        """Its part of the runs, the most costly first: each goes to the part that has the least so far.

        It follows from the runs alone, whatever is done of them: shards start when a queue lets them.
        """
        costs = [0] * self.count
        own: list[Run] = []
        for run in sorted(runs, key=lambda run: -run.cost):  # equal ones stay in order
            least = costs.index(min(costs))
            costs[least] += run.cost
            if least == self.index:
                own.append(run)
        return own


WHOLE = Shard()


def shard(text: str) -> Shard:
    """The type of the option --shard."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
    if not numbers or int(numbers[1]) >= int(numbers[2]):
        raise argparse.ArgumentTypeError(f"({text}) must be i/n, part i of n counted from 0, such as 0/8")
    return Shard(int(numbers[1]), int(numbers[2]))
