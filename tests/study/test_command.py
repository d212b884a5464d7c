"""`videonorm study list | run | report`, without training."""

from functools import partial
from unittest.mock import Mock

import pytest

from videonorm.errors import UserError
from videonorm.study import page
from videonorm.study import run as study_run
from videonorm.study.command import main
from videonorm.study.verdicts import read_verdicts
from videonorm.sweep import run

FIT = """
if (folder.parent / "stop").exists():
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(10)
if folder.parent.name == "fails":
    record(status="failed", error="no luck")
    sys.exit(1)
record(val_loss=(2.0 if folder.name.startswith("bn") else 1.0) + int(options["seed_everything"]) / 100)
"""


@pytest.fixture
def studies(study_file, stand_in, tmp_path, monkeypatch):
    """Two studies in configs/study; returns what draws the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(run, "run_sweep", partial(run.run_sweep, command=stand_in(FIT)))
    monkeypatch.setattr(study_run, "write_report", lambda folder: None)
    drawn = Mock()
    monkeypatch.setattr(page, "write_page", drawn)
    (tmp_path / "configs" / "study").mkdir(parents=True)
    for name in ("fails", "works"):
        norms = {arm: [f"../../{arm}.yaml"] for arm in ("bn", "gn_ws")}
        sweep = {"batch_size": [2], "recipe": "../../recipe.yaml", "norms": norms}
        study_file(name=name, sweep=sweep).rename(tmp_path / "configs" / "study" / f"{name}.yaml")
    return drawn


def test_one_study_from_its_name_to_its_page(studies, tmp_path, capsys):
    main(["run", "works", "--quick", "--jobs", "4"])
    folder = tmp_path / "runs" / "study_quick" / "works"
    (found,) = read_verdicts(folder / "verdicts.csv")
    assert (found.study, found.verdict, found.seeds, found.runs) == ("works", "supported", 2, 4)
    printed = capsys.readouterr().out
    assert "supported" in printed and "BN is worse." in printed
    assert "page: runs/study_quick/works/study.html, beside it verdicts.csv" in printed
    ((results, output),) = (call.args for call in studies.call_args_list)
    assert [of.study.name for of in results] == ["works"] and output.name == "study.html"
    main(["report", "runs/study_quick"])
    assert read_verdicts(folder.parent / "verdicts.csv") == [found]


def test_a_study_that_fails_does_not_stop_the_others(studies, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "all", "--seeds", "2", "--jobs", "4"])
    assert end.value.code == 1
    of = {verdict.study: verdict for verdict in read_verdicts(tmp_path / "runs" / "study" / "verdicts.csv")}
    assert of["works"].verdict == "supported"
    assert of["fails"].verdict == "not decided" and "no luck" in of["fails"].needs
    assert "fails/bn_8x2_b2_s0 failed: no luck" in capsys.readouterr().out

    main(["run", "works", "--seeds", "2"])  # nothing is left to train
    with pytest.raises(SystemExit):
        main(["run", "all", "--seeds", "3", "--output", "runs/study/works/results.csv"])
    printed = capsys.readouterr().out
    assert "works has ended early: " in printed and "results.csv/works: Not a directory" in printed


def test_a_signal_ends_all_of_them(studies, tmp_path, capsys):
    folder = tmp_path / "runs" / "study"
    (folder / "fails").mkdir(parents=True)
    (folder / "fails" / "stop").touch()
    with pytest.raises(SystemExit) as end:
        main(["run", "all", "--jobs", "1"])
    assert end.value.code == 143 and not (folder / "works").exists()
    assert "stopped by SIGTERM: 0 of 6 runs are done; the same command goes on" in capsys.readouterr().out


def test_all_are_checked_before_any_is_run(studies, tmp_path):
    wrong = (tmp_path / "configs" / "study" / "works.yaml").read_text().replace("norm: bn", "norm: in")
    (tmp_path / "configs" / "study" / "z.yaml").write_text(wrong)
    with pytest.raises(UserError, match=r"name \(works\) must be that of one study of configs/study"):
        main(["run", "all"])
    (tmp_path / "configs" / "study" / "z.yaml").write_text(wrong.replace("name: works", "name: z"))
    with pytest.raises(UserError, match=r"z claim S1: of \(norm: in\) must be one of the sweep's: bn"):
        main(["run", "all"])
    assert not (tmp_path / "runs").exists()


def test_list(studies, capsys):
    main(["list"])
    printed = capsys.readouterr().out
    for part in ("works", "S1", "bn, gn_ws", "6 runs, 960 frames", "4 runs, 256 frames"):
        assert part in printed


@pytest.mark.parametrize(
    "argv, said",
    [
        (
            ["run", "wroks"],
            r"study \(wroks\) must be all, a file, or one of fails, works; did you mean works\?",
        ),
        (["run", "none.yaml"], r"study \(none.yaml\) must be a readable file"),
        (["run", "works", "--seeds", "1"], r"works claim S1: seeds \(1\) must be at least 2"),
        (["report", "configs"], r"DIR \(configs\) must be the folder of a study, or of several"),
        (["lst"], r"lst"),
        (["run", "works", "--quik"], r"--quik is no option here; did you mean --quick\?"),
    ],
    ids=str,
)
def test_mistakes(studies, argv, said):
    with pytest.raises(UserError, match=said):
        main(argv)


def test_without_studies_it_says_where_they_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="configs/study must hold study files; run from a folder that has it"):
        main(["list"])


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "videonorm study run all --quick" in capsys.readouterr().out
