import errno
import subprocess
import sys
from functools import partial
from unittest.mock import Mock

import pytest

from videonorm.errors import UserError
from videonorm.sweep import report, run
from videonorm.sweep.command import main


@pytest.fixture
def fit(stand_in, monkeypatch):
    """Puts a few lines of Python in the place of `videonorm fit`."""

    def put(lines: str) -> None:
        monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
        monkeypatch.setattr(run, "run_sweep", partial(run.run_sweep, command=stand_in(lines)))

    return put


def test_a_sweep_from_file_to_report(fit, sweep_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fit("record()")
    main(["-c", str(sweep_file)])
    out = tmp_path / "runs" / "tiny"
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "results.csv", "summary.png", "sweep.json", "plots", "bn_4x2_b4_s0"} <= names
    printed = capsys.readouterr().out
    assert "No clear winner: bn at T=8, B=2 leads with 58.0\u00a0% top-1" in printed
    assert "16 frames a step, on 2 CPU cores" in printed and "peak MiB" not in printed
    last = printed.splitlines()[-1]
    assert last == "report: runs/tiny/report.html, beside it results.csv, results.md, summary.png"

    (out / "report.html").unlink()
    main(["--report", str(out)])
    assert (out / "report.html").exists()


def test_a_failed_run_is_told_by_the_exit_code(fit, sweep_file, tmp_path, capsys):
    fit("sys.exit('no luck') if num_frames == 4 else record()")
    with pytest.raises(SystemExit) as end:
        main(["-c", str(sweep_file), "--output", str(tmp_path / "out")])
    assert end.value.code == 1
    assert "bn_4x2_b4_s0 failed: no luck (exit code 1)" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").exists()


def test_a_disk_that_cannot_be_written_is_one_sentence(fit, sweep_file, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out: Not a directory; the results so far are kept"):
        main(["-c", str(sweep_file), "--output", str(tmp_path / "file" / "out")])

    fit("record()")
    full = OSError(errno.ENOSPC, "No space left on device", "plots/heat_map.png")
    monkeypatch.setattr(report, "write_report", Mock(side_effect=full))
    with pytest.raises(
        UserError, match=r"^plots/heat_map.png: No space left on device; the results so far are"
    ):
        main(["-c", str(sweep_file), "--output", str(tmp_path / "out")])
    assert "No clear winner: bn at T=8" in capsys.readouterr().out  # the answer is told all the same
    assert (tmp_path / "out" / "results.csv").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(sweep_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["-c", str(sweep_file), "--dry_run", "--seeds", "2"])
    assert "gn-ws_8x2_b2_s1" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--report", "runs/a", "--seeds", "3"], "--report must stand alone"),
        (["-c", "a.yaml", "--jobs", "0"], r"--jobs: \(0\) must be a whole number, 1 or more"),
        (["-c", "a.yaml", "--seeds", "0"], r"--seeds: \(0\) must be a whole number, 1 or more"),
        (["-c", "a.yaml", "--dry-run"], "--dry-run is no option here; did you mean --dry_run?"),
        (["-c", "a.yaml", "--sweep"], "--sweep is no option here"),
        (["-c", "a.yaml", "--report", "b"], "argument --report: not allowed with argument -c/--config"),
        ([], "one of the arguments -c/--config --report is required"),
        (["-c", "absent.yaml"], r"sweep file \(absent.yaml\) must be a readable file"),
        (["--report", "absent"], r"results \(absent/results.csv\) must be a readable file"),
    ],
)
def test_a_mistake_is_one_sentence(options, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        main(options)
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy():
    check = (
        "import sys, contextlib, videonorm.sweep.command as command\n"
        "with contextlib.suppress(SystemExit): command.main(['--help'])\n"
        "heavy = {'torch', 'matplotlib', 'rich', 'pandas', 'yaml', 'scipy', 'jsonargparse', 'jinja2'}\n"
        "assert not heavy & sys.modules.keys()"
    )
    printed = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert "--dry_run" in printed
