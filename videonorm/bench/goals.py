"""What videonorm promises of its cost, and whether the results of `videonorm bench all` hold it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from videonorm.bench.names import REPLAYED
from videonorm.bench.records import Row
from videonorm.bench.tables import LARGE_BYTES, Table, figures, large, spread

UNMEASURED = "unmeasured"
NORMS_OF_I3D_50 = 53
_KERNELS = ("kernels", "all_kernels")
_AUTOCAST, _COPY = "speedup_over_torch_gn_autocast", "share_of_copy_rate"


class Goal(NamedTuple):
    """A ratio, or a time, that must be reached in every case.

    Attributes:
        name: what it is of.
        asked: "at least" or "at most" ``bound``.
        stages: whose rows it is measured in.
        values: those of the cases, from the rows.
        anywhere: whether it can be measured without a GPU.
    """

    name: str
    asked: str
    bound: float
    stages: tuple[str, ...]
    values: Callable[[Sequence[Row]], list[float]]
    anywhere: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.asked == "at least" else value <= self.bound


class Judgement(NamedTuple):
    """A goal, the values of its cases from the worst to the best, and what that makes of it."""

    goal: Goal
    values: list[float]

    @property
    def verdict(self) -> str:
        if not self.values:
            return UNMEASURED
        met = sum(map(self.goal.met, self.values))
        if 0 < met < len(self.values):
            return f"met in {met} of {len(self.values)}"
        return "met" if met else "missed"

    def as_record(self) -> dict[str, Any]:
        return {
            "goal": self.goal.name,
            "asked": f"{self.goal.asked} {self.goal.bound:g}",
            "cases": len(self.values),
            "median": median(self.values) if self.values else None,
            "worst": self.values[0] if self.values else None,
            "best": self.values[-1] if self.values else None,
            "verdict": self.verdict,
        }


def judge(rows: Mapping[str, Sequence[Row]], on_gpu: bool) -> list[Judgement]:
    """Every goal.

    Args:
        rows: of the results, by stage.
        on_gpu: whether they are a GPU's; those of a CPU say nothing of most goals.
    """
    judgements = []
    for goal in GOALS:
        of_goal = [row for stage in goal.stages for row in rows.get(stage, [])]
        values = goal.values(of_goal) if on_gpu or goal.anywhere else []
        judgements.append(Judgement(goal, sorted(values, reverse=goal.asked == "at most")))
    return judgements


def goal_table(judgements: Sequence[Judgement]) -> Table:
    body = [
        [goal.name, f"{goal.asked} {goal.bound:g}", spread(values, "{:.2f}"), str(len(values) or ""), verdict]
        for goal, values, verdict in ((one.goal, one.values, one.verdict) for one in judgements)
    ]
    return Table("Goals", ["", "asked", "measured", "cases", ""], body)


def _kernels(column: str, *directions: str) -> Callable[[Sequence[Row]], list[float]]:
    """A column of ours, GN + ReLU above 64 MB, in some directions; in both together where none is named."""
    return lambda rows: figures(_ours(large(rows), "gn_relu", *directions or ("both",)), column)


def _ours(rows: Iterable[Row], op: str, *directions: str) -> list[Row]:
    own = [row for row in rows if row["contender"] == ("ours_grouped" if op == "ws" else "ours")]
    return [row for row in own if row["op"] == op and row["direction"] in directions]


def _middle_sized(rows: Sequence[Row]) -> list[float]:
    passes = _ours(rows, "gn_relu", "apply", "grad_x")
    return figures([row for row in passes if 8e6 <= float(row["minimal_bytes"]) < LARGE_BYTES], _COPY)


def _read_share(rows: Sequence[Row]) -> list[float]:
    moments = _ours(large(rows), "gn_relu", "moments")
    return [float(row["gb_per_second"]) / float(row["read_gb_per_second"]) for row in moments]


def _few_clips(rows: Sequence[Row]) -> list[float]:
    few = [row for row in rows if row["shape"].partition("x")[0] in ("1", "2")]
    return figures(_ours(few, "gn_relu", "both"), "speedup_over_torch_gn")


def _filter_milliseconds(rows: Sequence[Row]) -> list[float]:
    own = [row for row in _ours(rows, "ws", "both") if row["nets"] == "r3d-50"]
    return [time / 1e3 for time in figures(own, "microseconds")]


def _step(name: str) -> Callable[[Sequence[Row]], list[float]]:
    return lambda rows: figures([row for row in rows if row["contender"] == name], "ratio_to_bn")


def _clips(name: str, base: str) -> Callable[[Sequence[Row]], list[float]]:
    """The most clips of a contender over those of another."""

    def values(rows: Sequence[Row]) -> list[float]:
        most = {row["contender"]: float(row["max_clips"]) for row in rows if row["max_clips"]}
        return [most[name] / most[base]] if name in most and most.get(base) else []

    return values


def _host(part: str, arm: str) -> Callable[[Sequence[Row]], list[float]]:
    def values(rows: Sequence[Row]) -> list[float]:
        whole = [row for row in rows if (row["part"], row["arm"], row["direction"]) == (part, arm, "all")]
        return figures(whole, "ratio_to_bn")

    return values


def _launches(rows: Sequence[Row]) -> list[float]:
    own = [row for row in rows if row["contender"] == "gn" and row["kind"] == "our group norm"]
    return [count / NORMS_OF_I3D_50 for count in figures(own, "launches")]


GOALS = (
    Goal("step of i3d-50, GN + WS over BN", "at most", 1.0, ("step",), _step("gn_ws")),
    Goal("the same as CUDA graphs", "at most", 1.0, ("replay",), _step(f"gn_ws{REPLAYED}")),
    *(
        Goal(name, "at least", bound, _KERNELS, values)
        for name, bound, values in (
            ("GN + ReLU above 64 MB, times as fast as BN's", 1.5, _kernels("speedup_over_bn")),
            ("GN + ReLU above 64 MB, times as fast as torch's, autocast", 4.3, _kernels(_AUTOCAST)),
            ("GN + ReLU of 1 or 2 clips, times as fast as torch's", 3.0, _few_clips),
            ("moments above 64 MB, share of the read rate", 0.85, _read_share),
            ("apply, grad_x above 64 MB, share of the copy rate", 0.85, _kernels(_COPY, "apply", "grad_x")),
            ("apply, grad_x of 8 to 64 MB, share of the copy rate", 0.6, _middle_sized),
        )
    ),
    Goal("WS of r3d-50, forward + backward, ms", "at most", 0.5, _KERNELS, _filter_milliseconds),
    Goal("launches of a norm, forward + backward", "at most", 4.0, ("profile",), _launches),
    *(
        Goal(f"most clips, {name}", "at least", bound, ("clips",), values)
        for name, bound, values in (
            ("GN + WS over BN", 1.0, _clips("gn_ws", "bn")),
            ("GN + WS recomputed over BN", 1.2, _clips("gn_ws_recompute", "bn")),
            ("GN + WS over torch's GN", 2.1, _clips("gn_ws", "gn_torch")),
        )
    ),
    Goal("host's time, GN + ReLU over BN's", "at most", 2.0, ("host",), _host("gn_relu", "gn"), True),
    Goal("host's time, step of GN + WS over BN's", "at most", 1.25, ("host",), _host("step", "gn_ws"), True),
)
