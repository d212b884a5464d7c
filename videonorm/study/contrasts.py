"""The cells of a claim, each with its weight: what is compared is the sum of their weighted values.

A *place* is what a run has in common with its other seeds: its arm, shape and values of the sweep's axes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from videonorm.errors import UserError
from videonorm.messages import did_you_mean
from videonorm.study.study_file import Cell, Claim, StudyFile
from videonorm.sweep.axes import as_number, as_text, is_called
from videonorm.sweep.plan import Plan
from videonorm.sweep.records import planned
from videonorm.sweep.results import Result

OWN = ("norm", "num_frames", "frame_stride", "batch_size")  # coordinates of every sweep

Place = tuple[str, ...]  # a text for each coordinate


class Grid:
    """The coordinates of a sweep, and the places where it has runs.

    Args:
        axes: its further axes, by their options' names.
        planned: its runs, as sweep.json has them; see ``videonorm.sweep.records.planned``.
    """

    def __init__(self, axes: Iterable[str], planned: Iterable[Mapping[str, Any]]) -> None:
        self.names = (*OWN, *axes)
        self.places = list(dict.fromkeys(map(self.place_of_planned, planned)))

    def place(self, result: Result) -> Place:
        """Where a run is."""
        return self.place_of_planned({"norm": result.norm, **result.shape._asdict(), "axes": result.axes})

    def place_of_planned(self, run: Mapping[str, Any]) -> Place:
        """Where a run will be."""
        return tuple(str(run[name] if name in OWN else run["axes"][name]) for name in self.names)

    def name(self, given: str) -> str:
        """The coordinate that a claim calls so: by its whole name, or the end of it.

        Raises:
            UserError: there is none, or there are several.
        """
        found = [name for name in self.names if is_called(name, given)]
        if len(found) != 1:
            several = f"; it is the end of {' and '.join(found)}" if found else ""
            hint = several or did_you_mean(given, self.names)
            raise UserError(f"{given} must be one of {', '.join(self.names)}{hint}")
        return found[0]

    def values(self, name: str) -> list[str]:
        at = self.names.index(name)
        return list(dict.fromkeys(place[at] for place in self.places))

    def left_open(self, claim: Claim) -> str | None:
        """The coordinate of whose values the claim's measure takes the largest, so that no place has one."""
        return self.name(claim.measure.largest) if claim.measure.largest else None

    def without(self, place: Place, name: str | None) -> Place:
        """A place with one of its coordinates left open."""
        return tuple("" if own == name else text for own, text in zip(self.names, place, strict=True))


def contrast(claim: Claim, grid: Grid) -> dict[Place, float]:
    """The places that a claim is about, and the weight of each.

    Of a difference, 1 for ``of`` and -1 for ``against``; of an interaction, their products with those of
    ``between``; along an axis, their products with the weights of a least-squares slope. Where the sweep has
    several such groups of places, they are averaged.

    Raises:
        UserError: the claim names a coordinate or a value that the sweep has not, or compares nothing.
    """
    along = _name(grid, "along", claim.along) if claim.along else None
    largest = _name(grid, "measure.largest", claim.measure.largest) if claim.measure.largest else None
    cells = _signed_cells(claim, grid)
    named = {name for _, cell in cells for name in cell} | ({along} if along else set())
    for what, name in (("along", along), ("measure.largest", largest)):
        if name and any(name in cell for _, cell in cells):
            raise UserError(f"{what} ({name}) must be left open by the cells of the claim")
    groups: dict[Place, dict[tuple[int, str], Place]] = {}
    for place in dict.fromkeys(grid.without(place, largest) for place in grid.places):
        of_place = dict(zip(grid.names, place, strict=True))
        free = tuple("" if name in named else text for name, text in of_place.items())
        for number, (_, cell) in enumerate(cells):
            if cell.items() <= of_place.items():
                step = of_place[along] if along else ""
                groups.setdefault(free, {})[number, step] = place
    found = [of for group in groups.values() if (of := _weights(group, cells, along))]
    weights: dict[Place, float] = {}
    for of_group in found:
        for place, weight in of_group.items():
            weights[place] = weights.get(place, 0.0) + weight / len(found)
    if not found:
        least = f", at two values of {along} at least" if along else ""
        raise UserError(
            f"of ({_text(claim.of)}) and what it is compared with must differ in nothing but what they name"
            f"{least}: the sweep has no such runs"
        )
    if not any(weights.values()):
        raise UserError(f"of ({_text(claim.of)}) must be compared with another cell than itself")
    return weights


def claimed(study: StudyFile, plan: Plan) -> Plan:
    """The plan with those runs alone that a claim is about: a sweep's grid has more than its claims compare.

    Raises:
        UserError: as ``contrast``, of the claim by its name.
    """
    grid = Grid(study.sweep.axes, map(planned, plan.runs))
    compared: set[Place] = set()
    for claim in study.claims:
        with naming(study, claim):
            weighed, largest = contrast(claim, grid), grid.left_open(claim)
        compared |= {place for place in grid.places if grid.without(place, largest) in weighed}
    return plan.only(tuple(run for run in plan.runs if grid.place_of_planned(planned(run)) in compared))


@contextmanager
def naming(study: StudyFile, claim: Claim) -> Iterator[None]:
    """What is wrong with a claim is told with its name, and the study's."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{study.name} claim {claim.id}: {error}") from error


def _signed_cells(claim: Claim, grid: Grid) -> list[tuple[int, Mapping[str, str]]]:
    of = _cell(grid, "of", claim.of)
    cells: list[tuple[int, Mapping[str, str]]] = [(1, of)]
    if claim.against is not None:
        against = _cell(grid, "against", claim.against)
        if alone := against.keys() - of.keys():
            raise UserError(f"of must name {', '.join(sorted(alone))} too, which against names")
        cells.append((-1, {**of, **against}))
    if claim.between is not None:
        first, second = (_cell(grid, "between", cell) for cell in claim.between)
        if first.keys() != second.keys():
            raise UserError("between must be two cells that name the same coordinates")
        cells = [
            (sign * own, {**cell, **inside})
            for inside, sign in ((first, 1), (second, -1))
            for own, cell in cells
        ]
    return cells


def _weights(
    group: Mapping[tuple[int, str], Place], cells: Sequence[tuple[int, object]], along: str | None
) -> dict[Place, float]:
    """Of one group of places; empty where a cell of it is missing."""
    steps = [
        step
        for step in dict.fromkeys(step for _, step in group)
        if all((number, step) in group for number in range(len(cells)))
    ]
    slope: Sequence[float] = [1.0] * len(steps)
    if along:
        x = [_log2(along, step) for step in steps]
        if len(x) < 2:
            return {}
        slope = np.linalg.pinv(np.stack([np.ones(len(x)), x], axis=1))[1].tolist()
    weights: dict[Place, float] = {}
    for step, of_step in zip(steps, slope, strict=True):
        for number, (sign, _) in enumerate(cells):
            place = group[number, step]
            weights[place] = weights.get(place, 0.0) + sign * of_step
    return weights


def _log2(along: str, text: str) -> float:
    value = as_number(text) or 0.0
    if value <= 0:
        raise UserError(f"along ({along}) must have numbers above 0 as values, not {text}")
    return float(np.log2(value))


def _name(grid: Grid, what: str, given: str) -> str:
    try:
        return grid.name(given)
    except UserError as error:
        raise UserError(f"{what} ({given}): {error}") from error


def _cell(grid: Grid, what: str, cell: Cell) -> dict[str, str]:
    found = {}
    for given, value in cell.items():
        name, text = _name(grid, what, given), as_text(value)
        if text not in (values := grid.values(name)):
            hint = did_you_mean(text, values)
            raise UserError(f"{what} ({given}: {text}) must be one of the sweep's: {', '.join(values)}{hint}")
        found[name] = text
    return found


def _text(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {as_text(value)}" for name, value in cell.items())
