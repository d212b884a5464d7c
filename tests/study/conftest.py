"""Studies without training: a sweep of made-up numbers, and the sweep's stand-in for `videonorm fit`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up_studies
import pytest
import yaml
from sweep.conftest import little_garbage, result, stand_in, sweep_file  # noqa: F401

from videonorm.study.study_file import Claim, Measure, StudyFile, read_study

STUDY: dict[str, Any] = {
    "name": "tiny",
    "sweep": {
        "recipe": "recipe.yaml",
        "norms": {"bn": ["bn.yaml"], "gn_ws": ["gn_ws.yaml"]},
        "num_frames": [8],
        "batch_size": [2, 4],
        "seeds": [0, 1, 2],
        "budget": {"steps": 10},
    },
    "quick": {"seeds": [0, 1], "budget": {"steps": 4}},
    "claims": [],
}
CLAIM = {
    "id": "S1",
    "sentence": "BN is worse.",
    "source": "a paper",
    "reported": "by 10.6 points",
    "measure": "val_loss",
    "statistic": "difference",
    "of": {"norm": "bn"},
    "against": {"norm": "gn_ws"},
    "expected": "higher",
}


class Recorder:
    """As those of ``videonorm.diagnostics``, for what a study asks of one."""

    tables = {"depths": ("block", "slope")}

    def __init__(self, every_n_steps: int = 100) -> None:
        self.every_n_steps = every_n_steps


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(sys.modules, "recorders_of_a_test", SimpleNamespace(Recorder=Recorder))
    return {"class_path": "recorders_of_a_test.Recorder", "init_args": {"every_n_steps": 5}}


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> StudyFile:
    """The study of one claim, read once: to parse one for every claim takes long."""
    folder = tmp_path_factory.mktemp("plain")
    for name in ("recipe", "bn", "gn_ws"):
        (folder / f"{name}.yaml").write_text("data: {frame_stride: 2}\n")
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "claims": [CLAIM]}))
    return read_study(folder / "study.yaml")


@pytest.fixture
def claimed(plain: StudyFile) -> Callable[..., StudyFile]:
    """Makes a study of one claim that differs from CLAIM; keys of the sweep may differ too."""

    def make(claim: dict[str, Any], seeds: int = 3, recorders: Any = (), **sweep: Any) -> StudyFile:
        given = {key: of for key, of in {**CLAIM, **claim}.items() if of is not None}
        measure = {"column": given["measure"]} if isinstance(given["measure"], str) else given["measure"]
        of_claim = Claim(**{**given, "measure": Measure(**measure)})
        changed = replace(plain.sweep, **{"seeds": list(range(seeds)), **sweep})
        return replace(plain, sweep=changed, claims=(of_claim,), recorders=tuple(recorders))

    return make


@pytest.fixture
def study_file(sweep_file: Path) -> Callable[..., Path]:  # noqa: F811
    """Writes a study of bn and gn_ws at B = 2 and 4, three seeds each, with claims that differ from CLAIM."""

    def write(claims: Sequence[Any] = ({},), sweep: Any = None, sweep_file: str = "", **more: Any) -> Path:
        changed = [
            {key: of for key, of in {**CLAIM, "id": f"S{number}", **claim}.items() if of is not None}
            for number, claim in enumerate(claims, 1)
        ]
        of_sweep = sweep_file or {**STUDY["sweep"], **(sweep or {})}
        path.write_text(
            yaml.safe_dump({**STUDY, "sweep": of_sweep, "claims": changed, **more}, sort_keys=False)
        )
        return path

    path = sweep_file.parent / "study.yaml"
    return write


@pytest.fixture(scope="module")
def explosion(tmp_path_factory):
    return made_up_studies.explosion(tmp_path_factory.mktemp("of") / "explosion")


@pytest.fixture(scope="module")
def learning_rate(tmp_path_factory):
    return made_up_studies.learning_rate(tmp_path_factory.mktemp("of") / "learning_rate")
