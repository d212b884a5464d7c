"""The keys of a study file, configs/study/NAME.yaml: a sweep, what its runs record, and claims about them.

Paths are relative to its folder, or to that of the sweep file that it names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse.typing import NonNegativeInt

from videonorm.errors import UserError
from videonorm.messages import did_you_mean
from videonorm.sweep.plan import Plan, plan_of
from videonorm.sweep.sweep_file import SweepFile, read_yaml, sweep_of, typed

Statistic = Literal[
    "difference", "equivalence", "non_inferiority", "interaction", "slope", "ratio", "log_rank"
]
RATIOS = ("ratio", "log_rank")  # statistics whose effect is 1 where there is none
T = TypeVar("T")
Cell = Mapping[str, Any]  # coordinates of runs and their values: norm, num_frames, batch_size, or an axis


@dataclass(frozen=True)
class Measure:
    """The number that a run is reduced to: one of a column, of an axis, or a time.

    Attributes:
        column: of results.csv; with ``table``, of a recorder's table; with ``time_to``, of metrics.csv.
        table: of a recorder, by its file's name without .csv.
        step: the rows of the table that count.
        over: what is taken of them, where they are several.
        where: values of other columns that the rows must have, such as a block.
        largest: an axis of the sweep, by its name or the end of it: its largest value at which training does
            not diverge, of all runs that differ in it alone.
        time_to: the value that the column is to reach. Measured are the steps until a logged one has; a run
            that never does, or diverges before, is censored at its budget.
        side: of that value on which it is reached.
        log10: take the logarithm of the number: what is to within a margin is then a ratio.
    """

    column: str | None = None
    table: str | None = None
    step: Literal["first", "last"] | NonNegativeInt = "last"
    over: Literal["mean", "median", "max"] = "mean"
    where: dict[str, Any] = field(default_factory=dict)
    largest: str | None = None
    time_to: float | None = None
    side: Literal["below", "above"] = "below"
    log10: bool = False

    def __post_init__(self) -> None:
        if (self.column is None) == (self.largest is None):
            raise UserError("it must give one of column and largest")
        if self.table and self.time_to is not None:
            raise UserError("it must give time_to without table: the column is one of metrics.csv")
        if self.largest and (self.table or self.time_to is not None):
            raise UserError("it must give largest alone")
        if self.log10 and (self.largest or self.time_to is not None):
            raise UserError("it must give log10 of a column alone; of the others there is a ratio")
        if self.where and not self.table:
            raise UserError("it must give table beside where, whose rows it chooses")

    @property
    def in_words(self) -> str:
        """Short, such as "activation_slopes.slope_mean_abs" or "steps to train_loss 0.5"."""
        if self.largest:
            return f"largest {self.largest}"
        if self.time_to is not None:
            return f"steps to {self.column} {self.time_to:g}"
        name = f"{self.table}.{self.column}" if self.table else str(self.column)
        return f"log10 of {name}" if self.log10 else name

    @property
    def of_row(self) -> str | None:
        """The column of results.csv, where it is what that says of a run, as it stands there."""
        return None if self.table or self.log10 or self.time_to is not None else self.column


@dataclass(frozen=True)
class Claim:
    """A sentence about normalization, and the statistic that decides it, fixed before anything runs.

    Attributes:
        id: such as S17, of this claim alone.
        sentence: what is claimed.
        source: who claims it.
        reported: the source's own numbers.
        measure: of each run. In a file also the name of a column of results.csv alone.
        statistic: what is computed of the runs; see ``statistics``.
        of: the cell that the claim is about.
        against: the cell it is compared with, seed by seed and at every value of the coordinates that neither
            names; what it leaves out is as in ``of``. Without it the effect is the measure itself.
        between: of an interaction: two cells that ``of`` and ``against`` are both in. The effect is the
            difference in the first minus that in the second.
        along: of a slope or an interaction: the coordinate whose doubling the effect is of, by least squares
            on its log2.
        expected: the sign of the effect that is claimed, above or below 0 (of a ratio, 1); of
            non-inferiority, which side is the better one.
        margin: the smallest effect worth the name: within it, two are equivalent. In points for top-1 and
            top-5, in the measure's own unit else; of a ratio the share by which it differs from 1.
    """

    id: str
    sentence: str
    source: str
    reported: str
    measure: Measure
    statistic: Statistic
    of: dict[str, Any]
    against: dict[str, Any] | None = None
    between: list[dict[str, Any]] | None = None
    along: str | None = None
    expected: Literal["higher", "lower"] | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        kind = self.statistic
        if not self.id.strip():
            raise UserError("id must name the claim, such as S17")
        if kind in ("equivalence", "non_inferiority") and self.margin <= 0:
            raise UserError(f"margin ({self.margin:g}) must be above 0: {kind} is to within it")
        if self.margin < 0:
            raise UserError(f"margin ({self.margin:g}) must be at least 0")
        if kind == "equivalence" and self.expected:
            raise UserError(f"expected ({self.expected}) must be left out: equivalence has no side")
        if kind != "equivalence" and not self.expected:
            raise UserError(f"expected must be higher or lower, which {kind} is to tell")
        if kind == "slope" and not self.along:
            raise UserError("along must name the axis that the slope is on")
        if kind == "interaction" and (self.along is None) == (self.between is None):
            raise UserError("an interaction must give one of between, two cells, and along, an axis")
        if self.between is not None and (kind != "interaction" or len(self.between) != 2):
            raise UserError(f"between ({self.between}) must be the two cells of an interaction")
        if self.along and kind not in ("slope", "interaction"):
            raise UserError(f"along ({self.along}) must be left out: {kind} is along no axis")
        if kind == "slope" and self.against is not None:
            raise UserError("against must be left out of a slope; that of a difference is an interaction")
        if kind in ("interaction", "log_rank", "non_inferiority") and self.against is None:
            raise UserError(f"against must be given: {kind} compares two cells")
        if kind == "ratio" and self.measure.log10:
            raise UserError("measure must be without log10 for a ratio, which is of logarithms already")
        if (kind == "log_rank") != (self.measure.time_to is not None):
            raise UserError(f"statistic ({kind}) must be log_rank for a time_to, and for nothing else")


@dataclass(frozen=True)
class StudyFile:
    """A study file, read. Whether its claims fit its sweep is for ``check``.

    Attributes:
        name: of the study, and of its folder.
        sweep: that its runs are of.
        folder: that the sweep's paths are relative to.
        values: its keys, those of its sweep among them, as a study file has them.
        recorders: callbacks of every run, a mapping with class_path and init_args each.
        claims: in the file's order.
    """

    name: str
    sweep: SweepFile
    folder: Path
    values: Mapping[str, Any]
    recorders: tuple[Mapping[str, Any], ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class _Keys:
    name: str
    sweep: str | dict[str, Any]
    claims: list[dict[str, Any]]
    quick: dict[str, Any] = field(default_factory=dict)
    recorders: list[dict[str, Any]] = field(default_factory=list)


def read_study(path: Path, *, quick: bool = False, num_seeds: int | None = None) -> StudyFile:
    """Read a study file.

    Args:
        path: the YAML file.
        quick: put the keys of ``quick`` in place of the sweep's.
        num_seeds: take the seeds 0 ... num_seeds - 1 in place of the file's.

    Raises:
        UserError: a file is missing, or a key or value is not what a study needs.
    """
    values = read_yaml("study", path)
    keys = typed(_Keys, {key: _outside(of) for key, of in values.items()}, path.name)
    folder, where, of_sweep = path.parent, f"{path.name} sweep", values["sweep"]
    if isinstance(of_sweep, str):
        file = path.parent / of_sweep
        folder, where, of_sweep = file.parent, file.name, read_yaml("sweep", file)
    of_sweep = {**of_sweep, **(values.get("quick", {}) if quick else {}), "name": keys.name}
    if num_seeds is not None:
        of_sweep["seeds"] = list(range(num_seeds))
    return StudyFile(
        keys.name,
        sweep_of(of_sweep, where),
        folder,
        {key: of for key, of in {**values, "sweep": of_sweep}.items() if key != "quick"},
        tuple(_recorder(of, f"{path.name} recorders") for of in values.get("recorders", [])),
        tuple(_claims(values["claims"], path.name)),
    )


def _outside(value: Any) -> Any:
    """A value without what its mappings hold: the class paths in them would be imported."""
    if isinstance(value, list):
        return [_outside(of) for of in value]
    return {} if isinstance(value, dict) else value


def study_plan(study: StudyFile) -> Plan:
    """The runs of a study.

    Raises:
        UserError: a file of its sweep is missing, or a value is not what a sweep needs.
    """
    source = yaml.safe_dump(study.values["sweep"], sort_keys=False, allow_unicode=True)
    return plan_of(study.sweep, study.folder, source, study.recorders)


def _recorder(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """As it is written, for `fit` to make."""
    if not isinstance(values.get("class_path"), str) or values.keys() - {"class_path", "init_args"}:
        raise UserError(f"{where} ({values}) must have a class_path and, if need be, init_args")
    return values


def _claims(values: Sequence[Mapping[str, Any]], where: str) -> list[Claim]:
    if not values:
        raise UserError(f"{where} claims ([]) must be a list with at least one claim")
    claims: list[Claim] = []
    for number, of_claim in enumerate(values):
        name = f"{where} claims[{number}]" + (f" ({of_claim['id']})" if "id" in of_claim else "")
        claim = _claim(dict(of_claim), name)
        if claim.id in (other.id for other in claims):
            raise UserError(f"{name} must have an id of its own")
        claims.append(claim)
    return claims


def _claim(values: dict[str, Any], where: str) -> Claim:
    for key in ("measure", "statistic", "of"):
        if key not in values:
            hint = did_you_mean(key, values)
            raise UserError(f"{where} must have the key {key}{hint}")
    measure = values["measure"]
    if isinstance(measure, str):
        measure = {"column": measure}
    if not isinstance(measure, dict):
        raise UserError(f"{where} measure ({measure}) must be a column or a mapping of keys to values")
    as_written = {key: values[key] for key in ("of", "against", "between") if key in values}
    values["measure"] = _as(Measure, measure, f"{where} measure")
    return replace(_as(Claim, values, where), **as_written)


def _as(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """``typed``, with the place before what a class says of its own values."""
    try:
        return typed(kind, values, where)
    except UserError as error:
        said = str(error)
        raise error if said.startswith(where) else UserError(f"{where}: {said}") from error
