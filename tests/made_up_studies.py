"""Studies that nobody ran: their files, results and recorders' tables, with numbers that might come out."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from videonorm import files
from videonorm.study.contrasts import Grid
from videonorm.study.measures import measure
from videonorm.study.result import StudyResult
from videonorm.study.study_file import read_study
from videonorm.study.verdicts import Verdict
from videonorm.sweep.results import COLUMNS, Result

LR = "model.optimizer.init_args.lr"
ORIGIN = {"machine": {"device": "cpu", "cores": 2}, "versions": {"torch": "2"}, "commit": "abc"}


def run(
    arm: str, top1: float | None, *, batch_size: int = 8, lr: float | None = None, seed: int = 0
) -> Result:
    """A row of results.csv; without a top-1 it has diverged."""
    axes = {} if lr is None else {LR: f"{lr:g}"}
    name = f"{arm.replace('_', '-')}_8x1_b{batch_size}" + ("" if lr is None else f"_lr-{lr:g}") + f"_s{seed}"
    values = {
        **dict.fromkeys(COLUMNS),
        **{"run": name, "norm": arm, "num_frames": 8, "frame_stride": 1, "batch_size": batch_size},
        **{"accumulate": 1, "frames_per_step": 8 * batch_size, "seed": seed, "steps": 800, "num_classes": 4},
        **{"val_top1": top1, "val_loss": None if top1 is None else 2 - top1, "val_videos": 400},
        **{"train_seconds": 60.0, "clips_seen": 6400, "status": "failed" if top1 is None else "done"},
        "error": "val_loss (nan) must be a finite number: the run has diverged" if top1 is None else None,
    }
    return Result(**values, axes=axes)


def claim(id: str, sentence: str, **more: Any) -> dict[str, Any]:
    known = {"source": "Bjorck et al., arXiv:1806.02375, figure 2", "reported": "3.5 at layer 110"}
    return {"id": id, "sentence": sentence, "statistic": "difference", "expected": "higher", **known, **more}


def study(
    folder: Path,
    claims: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    verdicts: Sequence[tuple[Any, ...]],
    num_runs: int | None = None,
) -> StudyResult:
    """A study in its folder, which is named as it.

    Args:
        verdicts: of each claim: the verdict, effect, low, high, unit and needs.
        num_runs: that it has when it is over; without it, those that there are.
    """
    axes = {name: sorted({of.axes[name] for of in results}) for name in (results[0].axes if results else ())}
    sweep = {
        **{
            "name": folder.name,
            "recipe": "recipe.yaml",
            "norms": {of.norm: [] for of in results} or {"bn": []},
        },
        **{"num_frames": [8], "batch_size": sorted({of.batch_size for of in results}) or [8], "axes": axes},
        **{"budget": {"steps": 800}, "seeds": sorted({of.seed for of in results}) or [0]},
    }
    keys = {"name": folder.name, "sweep": sweep, "claims": list(claims)}
    files.write(folder / "study.yaml", yaml.safe_dump(keys, sort_keys=False))
    count = len(results) if num_runs is None else num_runs
    if results:
        files.write_json(folder / "sweep.json", {"num_runs": count, "origins": [ORIGIN]})
    for of in results:
        (folder / of.run).mkdir(exist_ok=True)
    read = read_study(folder / "study.yaml")
    planned = [{"norm": of.norm, **of.shape._asdict(), "axes": of.axes} for of in results]
    measures = measure(read, Grid(read.sweep.axes, planned), folder, results) if results else []
    told = [
        Verdict(
            *(folder.name, of.id, of.sentence, of.source, of.reported, of.statistic, decision),
            *(effect, low, high, unit, of.margin, needs, len(sweep["seeds"]) if results else 0),
            *(400 if unit == "points" else None, len(results), len(results) * 1.0),
        )
        for of, (decision, effect, low, high, unit, needs) in zip(read.claims, verdicts, strict=True)
    ]
    return StudyResult(read, folder, results, measures, told)


def table(
    folder: Path, result: Result, name: str, columns: Iterable[str], rows: Iterable[Sequence[Any]]
) -> None:
    with (folder / result.run / f"{name}.csv").open("w", newline="") as file:  # waits for no disk
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *columns])
        writer.writerows(rows)


def explosion(folder: Path) -> StudyResult:
    """Activations, the loss along the gradient and gradients of the logits; two arms have diverged."""
    growth = {"none": 0.11, "last_only": 0.10, "bn": 0.0, "gn_ws": 0.002}
    arms = product(growth, (0, 1))
    results = [run(arm, None if arm == "none" else 0.8, seed=seed) for arm, seed in arms]
    for of in results:
        by_block = growth[of.norm]
        steps = (0, 200, 400) if of.norm == "none" else (0, 200, 400, 600, 800)
        columns = ("block", "depth", "mean_abs", "grad_mean_abs")
        values = [
            (step, f"b{d}", d, np.inf if of.norm == "none" and step == 400 and d > 25 else
             0.4 * 10 ** (by_block * d * (1 + step / 4000) + 0.05 * of.seed), 1e-3 * 10 ** (-by_block * d))
            for step in steps for d in range(33)
        ]  # fmt: skip
        (folder / of.run).mkdir(parents=True)
        table(folder, of, "activations", columns, values)
        slopes = [(step, by_block + 0.003 * of.seed, -by_block) for step in steps]
        table(folder, of, "activation_slopes", ("slope_mean_abs", "slope_grad_mean_abs"), slopes)
        sizes = 10.0 ** np.arange(-5, 0)
        ratio = {"none": 1e5, "last_only": 3, "bn": -0.4, "gn_ws": -0.3}[of.norm]
        along = [
            (step, size, max(0.3, 1 + ratio * size * 4 * (1 + batch / 5)), size ** 0.5)
            for step in steps for size in sizes for batch in range(3)
        ]  # fmt: skip
        table(folder, of, "loss_landscape", ("step_size", "loss_ratio", "grad_distance"), along)
        largest = [(step, 0.0 if of.norm == "none" else 0.1, 0.5, 2.0) for step in steps]
        table(folder, of, "loss_landscape_summary", ("largest_step", "predictiveness", "smoothness"), largest)
        share = [(s, 0.9 - s / 4000 if of.norm == "none" else 0.29 + of.seed / 50, 4.0, 0.5) for s in steps]
        table(folder, of, "logit_gradients", ("top_column_share", "kurtosis", "input_dependence"), share)

    def slopes_of(column: str) -> dict[str, str]:
        return {"table": "activation_slopes", "column": column, "step": "first"}

    cells = {"of": {"norm": "none"}, "against": {"norm": "bn"}}
    claims = [
        claim("S17", "Without a norm activations grow with depth.", **cells,
              measure=slopes_of("slope_mean_abs")),
        claim(
            *("S17 GN", "With GN and WS activations grow with depth no more than with BN."), margin=0.02,
            measure=slopes_of("slope_mean_abs"), statistic="equivalence", expected=None,
            of={"norm": "gn_ws"}, against={"norm": "bn"},
        ),
        claim(
            *("S18", "Without a norm only small steps lower the loss."), **{**cells, "expected": "lower"},
            measure={"table": "loss_landscape_summary", "column": "largest_step"}, margin=0.01,
        ),
        claim("S19", "Its gradients do not depend on the input.", **cells,
              measure={"table": "logit_gradients", "column": "top_column_share"}),
    ]  # fmt: skip
    slope, size = "activation_slopes.slope_mean_abs", "loss_landscape_summary.largest_step"
    return study(folder, claims, results, [
        ("supported", 0.11, 0.098, 0.122, slope, ""),
        ("equivalent", 0.002, -0.003, 0.007, slope, ""),
        ("refuted", 0.04, 0.01, 0.07, size, ""),
        ("not decided", 0.21, -0.07, 0.49, "logit_gradients.top_column_share",
         "at least about 3 more seeds would be needed"),
    ])  # fmt: skip


def learning_rate(folder: Path) -> StudyResult:
    """Top-1 over learning rates, of which the largest diverge; one is not over."""
    stable = {"none": 0.003, "bn": 0.1, "gn_ws": 0.03}
    results = [
        run(arm, None if lr > stable[arm] else 0.5 + 0.1 * np.log10(lr / 1e-4) + seed / 50, lr=lr, seed=seed)
        for arm, lr, seed in product(stable, (1e-4, 1e-3, 3e-3, 0.03, 0.1), (0, 1, 2))
    ]
    claims = [
        claim("S15", "BN allows larger learning rates.", measure={"largest": "lr"}, statistic="ratio",
              of={"norm": "bn"}, against={"norm": "none"}, margin=0.5),
        claim("S16", "At the same small learning rate BN is no better.", measure="val_top1", margin=3.0,
              statistic="equivalence", expected=None, of={"norm": "bn", "lr": 1e-4},
              against={"norm": "none", "lr": 1e-4}),
        claim("S28", "It trains faster.", measure={"column": "train/loss", "time_to": 0.5},
              statistic="log_rank", expected="lower", of={"norm": "bn"}, against={"norm": "none"}),
    ]  # fmt: skip
    for of in results:
        (folder / of.run).mkdir(parents=True)
        if of.done:
            faster = {"bn": 3, "gn_ws": 2, "none": 1}[of.norm]
            rows = [(step, 2.0 - faster * step / 700 + of.seed / 10) for step in range(0, 800, 20)]
            table(folder, of, "metrics", ("train/loss",), rows)
    for seed in (0, 1):
        files.write_json(folder / f"gn-ws_8x1_b8_lr-1_s{seed}" / "asked.json", {"asked": {}})
    return study(folder, claims, results, [
        ("supported", 33.3, 10.0, np.inf, "x", ""),
        ("equivalent", 0.5, -1.4, 2.4, "points", ""),
        ("not decided", 0.7, 0.35, 1.4, "x (hazard)", "at least about 4 more seeds would be needed"),
    ], num_runs=50)  # fmt: skip


def batch_curve(folder: Path) -> StudyResult:
    """Top-1 over B, and channels over the steps; no seed but one."""
    at = {"bn": (0.6, 0.8, 0.9), "gn": (0.86, 0.87, 0.88), "gn_ws": (0.9, 0.91, 0.91)}
    results = [
        run(arm, top1, batch_size=size)
        for arm, of_arm in at.items() for size, top1 in zip((1, 4, 32), of_arm, strict=True)
    ]  # fmt: skip
    for of in results:
        dead = {"bn": 0.02, "gn": 0.1, "gn_ws": 0.01}[of.norm]
        (folder / of.run).mkdir(parents=True)
        rows = [(s, f"n{d}", d, dead * s / 800 * (d + 1)) for s in range(0, 801, 200) for d in range(3)]
        table(folder, of, "channels", ("layer", "depth", "dead"), rows)
    cells = {"of": {"norm": "bn"}, "against": {"norm": "gn"}}
    claims = [
        claim("S1", "BN's error rises as the batch shrinks, GN's stays.", statistic="interaction",
              measure="val_top1", along="batch_size", margin=1.0, **cells),
        claim("S27", "GN with WS at batch 1 is as good as BN at 32.", statistic="non_inferiority",
              measure="val_top1", margin=0.5, of={"norm": "gn_ws", "batch_size": 1},
              against={"norm": "bn", "batch_size": 32}),
        claim("S25", "GN leaves more channels dead.", measure={"table": "channels", "column": "dead"},
              margin=0.1, of={"norm": "gn"}, against={"norm": "bn"}),
    ]  # fmt: skip
    return study(folder, claims, results, [
        ("supported", 5.4, 3.9, 6.9, "points per doubling of batch_size", ""),
        ("supported", 0.0, -0.4, 0.4, "points", ""),
        ("equivalent", 0.06, 0.04, 0.08, "channels.dead", ""),
    ])  # fmt: skip


def norms(folder: Path, num_runs: int | None = None) -> StudyResult:
    """Eight arms that differ in nothing else."""
    arms = ("none", "bn", "gn", "ln", "in", "bn_ws", "gn_ws", "ln_ws")
    results = [
        run(arm, 0.4 + 0.06 * i + seed / 40, seed=seed) for i, arm in enumerate(arms) for seed in (0, 1)
    ]
    claims = [claim("S5", "LN is below BN.", measure="val_top1", expected="lower", margin=1.0,
                    of={"norm": "ln"}, against={"norm": "bn"})]  # fmt: skip
    return study(folder, claims, results, [("refuted", 12.0, 8.1, 15.9, "points", "")], num_runs)


def never_run(folder: Path) -> StudyResult:
    claims = [claim("S11", "Frozen BN is the better one for single clips.", measure="val_top1",
                    of={"norm": "bn"})]  # fmt: skip
    return study(folder, claims, [], [("not decided", None, None, None, "points", "2 more seeds")])


STUDIES = (explosion, learning_rate, batch_curve, norms, never_run)


def every(folder: Path) -> list[StudyResult]:
    """All of them, each in a folder with its name."""
    return [make(folder / make.__name__) for make in STUDIES]
