"""`videonorm bench decode`, `loader` and `views` on tiny videos. No time is looked at."""

import csv

import pytest

from videonorm.bench import decode, loader, loading, peers, videos, views
from videonorm.bench.batches import batches
from videonorm.bench.command import main
from videonorm.bench.loading import medians, new_case
from videonorm.bench.records import read_rows
from videonorm.bench.trial import Trial
from videonorm.data import available_decoders, read_manifest

SMALL = ["--clip", "4x3", "--short_side", "32"]


def new_small_case(name, **sizes):
    return new_case(name, (4, 3), 32, "gop250") | {"crop_size": 28} | sizes


def needs_torchcodec(names):
    """The names, of which torchcodec's are skipped where it cannot run in this process."""
    missing = pytest.mark.skipif(bool(available_decoders()["torchcodec"]), reason="torchcodec does not load")
    return [pytest.param(name, marks=missing if "torchcodec" in name else ()) for name in names]


def in_this_process(module):
    """`take_turns`, without its processes."""

    def take_turns(name, processes, progress):
        for trials in processes:
            for trial in trials:
                trial.answers.append(module.trial(trial.case))

    return take_turns


@pytest.mark.filterwarnings("ignore:.* is read by pyav")  # decord refuses pictures so small
@pytest.mark.parametrize("name", needs_torchcodec(decode.LOADERS))
def test_decode_contender(tiny, name):
    get = decode.contender(new_small_case(name))
    path = read_manifest(tiny.manifest("gop250")).entries[0].path
    got = get(path, 5, [5, 8, 11, 14])
    match name.partition("_")[0]:
        case "limit":
            # Up to the last, and what that refers to; or only what is needed.
            assert 15 <= got <= 20 if name == "limit" else 4 <= got < 15
        case "ours":
            assert got.shape == (4, 32, 85, 3)
        case "torchcodec":
            assert got.shape == (4, 3, 32, 85)
        case _:
            assert got.shape == (3, 4, 32, 85)


@pytest.mark.parametrize("name", needs_torchcodec(loader.LOADERS))
def test_loader_contender(tiny, name):
    packed = name.startswith("ours_packed")
    manifest = read_manifest(tiny.manifest("packed_32" if packed else "gop250"))
    case = new_small_case(name, clips_per_video=1, batch_size=4, num_workers=1)
    with batches(manifest, case) as delivered:
        for _ in range(3):  # more than there are paths
            batch = next(delivered)
            if name == "limit_disposable":
                assert len(batch) == 4
            elif name.startswith("ours") and not name.endswith("_cpu"):
                assert batch.frames.shape == (4, 1, 4, 32, 85, 3)
            else:
                assert batch.shape == (4, 3, 4, 28, 28)
                assert -2.1 < batch.min() < batch.mean() < batch.max() < 2.5
            if name.startswith("pytorchvideo"):
                break  # its epoch has an end


def test_several_clips_of_a_video(tiny):
    manifest = read_manifest(tiny.manifest("gop250"))
    case = new_small_case("ours_pyav", clips_per_video=4, batch_size=8, num_workers=1)
    with batches(manifest, case) as delivered:
        assert next(delivered).frames.shape == (2, 4, 4, 32, 85, 3)


@pytest.mark.parametrize("name", views.LOADERS)
def test_views_contender(tiny, name):
    case = new_small_case(name, num_clips=3, num_crops=3, manifest=str(tiny.manifest("gop250")))
    found = views.trial(case)  # which checks how many values there are
    assert found["cpu_seconds_per_video"] > 0


def test_the_limit_decodes_what_our_reader_decodes(tiny):
    path = read_manifest(tiny.manifest("gop12_fast")).entries[0].path
    assert peers.decode_limit(path, [0], drop=True) == 1
    assert peers.decode_limit(path, [0, 49], drop=False) <= 1 + 2 + 1  # of the first and the last GOP
    assert peers.decode_limit(path, range(50), drop=True) == 50


@pytest.fixture
def tiny_videos(tiny, monkeypatch):
    """``tiny``, whatever videos are asked for."""
    monkeypatch.setattr(videos, "Videos", lambda num_videos, num_paths: tiny)


@pytest.mark.slow
def test_views_command(tiny_videos, tmp_path, capsys):
    """Through real processes."""
    path = tmp_path / "views.csv"
    main(["views", "--quick", *SMALL, "--num_clips", "2", "--loader", "ours", "--out", str(path)])
    (row,) = read_rows(path)
    assert list(row) == list(views.COLUMNS)
    assert row["case"] == "4x3@32" and row["quick"] == row["rounds"] == "1"
    assert not row["error"] and float(row["cpu_seconds_per_video"]) > 0 and not row["ratio_to_pytorchvideo"]
    shown = capsys.readouterr().out
    assert str(path) in shown and "quick: not for publication" in shown


@pytest.mark.slow
@pytest.mark.parametrize("module", [decode, loader])
def test_command(module, tiny_videos, tmp_path, monkeypatch, capsys):
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(loading, "take_turns", in_this_process(module))
    monkeypatch.setattr(decode, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(loader, "LEAST_SECONDS", (None, 0.1))
    monkeypatch.setattr(loader, "MEMORY_ROWS", 10)
    monkeypatch.setattr(peers, "pytorchvideo_clips", endless_pytorchvideo)
    path = tmp_path / "rows.csv"
    contenders = ["limit_disposable", "ours_pyav", "pytorchvideo_pyav"]
    options = ["--quick", *SMALL, "--loader", *contenders, "--out", str(path)]
    if module is loader:
        options += ["--num_workers", "1", "--memory_clips", "40"]
    main([name, *options])
    rows = read_rows(path)
    assert list(rows[0]) == list(module.COLUMNS)
    assert {row["loader"] for row in rows} == set(contenders) and not any(row["error"] for row in rows)
    timed = [row for row in rows if row["clips_per_second"]]
    for row in timed:
        figure = "cpu_seconds_per_clip" if module is decode else "clips_per_second"
        assert row["share_of_decode_limit"] or row["clips_per_video"] == "4"
        if row["loader"] == "ours_pyav":
            peer = next(
                other
                for other in timed
                if other["loader"] == "pytorchvideo_pyav" and other["files"] in (row["files"], "gop250")
                if module is loader or other["files"] == row["files"]
            )
            ratio = float(row[figure]) / float(peer[figure])
            expected = ratio if module is loader else 1 / ratio
            assert float(row["ratio_to_pytorchvideo"]) == pytest.approx(expected, rel=1e-3)
    if module is loader:
        (memory,) = [row for row in rows if row["memory_clips"]]
        assert memory["memory_growth_mib"] and memory["files"] == "gop12_fast"
    assert str(path) in capsys.readouterr().out


def endless_pytorchvideo(manifest, *arguments):
    entries = type(manifest.entries).of(list(manifest.entries) * 100)
    return pytorchvideo_clips(type(manifest)(manifest.path, entries, 1), *arguments)


pytorchvideo_clips = peers.pytorchvideo_clips


def test_a_contender_that_fails_is_a_row():
    error = {"error": "its process ended with signal 11: "}
    figures = [
        {"clips_per_second": 3.0, "cpu_seconds_per_clip": 0.3},
        {"clips_per_second": 2.0, "cpu_seconds_per_clip": 0.5},
    ]
    limit, ours = rows = medians(
        [
            Trial(new_small_case("limit"), 2, [error]),
            Trial(new_small_case("ours_pyav"), 2, figures),
            Trial(new_small_case("torchcodec"), 2),  # the run was stopped before
        ]
    )
    decode.compare(rows)
    assert limit["error"] == "its process ended with signal 11: " and "clips_per_second" not in limit
    assert ours["cpu_seconds_per_clip"] == 0.4 and ours["rounds"] == 2
    assert "ratio_to_pytorchvideo" not in ours and "share_of_decode_limit" not in ours


def test_a_package_that_is_missing_is_named(tiny_videos, tmp_path, monkeypatch, capsys):
    origin = loading.origin
    absent = {"torchcodec": None, "decord": None}
    monkeypatch.setattr(loading, "origin", lambda *arguments: origin(*arguments) | absent)
    path = tmp_path / "decode.csv"
    names = ["ours_torchcodec", "torchcodec", "pytorchvideo_decord"]
    main(["decode", "--quick", *SMALL, "--loader", *names, "--out", str(path)])
    errors = {row["loader"]: row["error"] for row in read_rows(path)}
    assert errors == dict(
        zip(names, ["not installed: torchcodec"] * 2 + ["not installed: decord"], strict=True)
    )
    assert capsys.readouterr().out.count("│ not installed: torchcodec") == 4  # in the cells of the table


def test_a_run_that_is_stopped_keeps_its_rows(tiny_videos, tmp_path, monkeypatch):
    def take_turns(name, processes, progress):
        processes[0][0].answers.append({"videos_per_second": 1.0, "cpu_seconds_per_video": 1.0})
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "take_turns", take_turns)
    with pytest.raises(KeyboardInterrupt):
        main(["views", "--quick", *SMALL, "--out", str(tmp_path / "views.csv")])
    assert not (tmp_path / "views.csv").exists()
    with (tmp_path / "views.csv.partial").open(newline="") as file:
        assert [row["loader"] for row in csv.DictReader(file)] == ["ours"]


def test_full_cases():
    options = loader.parser().parse_args([])
    assert options.loader == loader.LOADERS
    counts = {name: len(loader.cases(name, options)) for name in loader.LOADERS}
    assert counts == dict.fromkeys(loader.LOADERS, 6) | {"limit_disposable": 6, "ours_pyav": 18}
    assert loader.memory_cases("ours_pyav", options)[0]["memory_clips"] == 5000
