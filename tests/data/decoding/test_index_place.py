"""Where indices lie when nothing may be written beside the manifest."""

import multiprocessing
import os
import warnings
from pathlib import Path

import pytest

from videonorm.data import Entries, Entry, Manifest, UniformClips, VideoDataset
from videonorm.data.decoding import IndexStore, index_store
from videonorm.data.decoding.index_store import packet_index


@pytest.fixture
def forget(monkeypatch):
    def empty() -> None:
        monkeypatch.setattr(index_store, "_recent", type(index_store._recent)(max_frames=1000))

    monkeypatch.setattr(index_store, "_said", bytearray(1))
    empty()
    return empty


@pytest.fixture
def manifest(tmp_path, videos, monkeypatch) -> Manifest:
    """In a folder that is to become read-only, with a video elsewhere; the cache may be written by all."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").touch()
    (tmp_path / "video.mp4").write_bytes(Path(videos("b_frames.mp4")).read_bytes())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries = Entries.of([Entry(str(tmp_path / "video.mp4"), 0)])
    return Manifest(tmp_path / "data" / "train.csv", entries, num_classes=1)


def load(manifest: Manifest) -> None:
    sample = VideoDataset(manifest, UniformClips(2, 1), replace_bad=False)[0]
    assert sample.frames is not None


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_read_only_folder_needs_no_warning(manifest, tmp_path, forget, request, monkeypatch):
    (tmp_path / "data").chmod(0o555)
    request.getfixturevalue("as_nobody")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(manifest)
        assert files_in(tmp_path / "data") == ["train.csv"]
        assert files_in(tmp_path / "cache" / "videonorm") == ["packets.sqlite"]
        forget()
        monkeypatch.delattr(index_store, "build_index")  # it is not made again
        load(manifest)


def test_what_is_beside_a_manifest_is_read_there_still(manifest, tmp_path, forget, request, monkeypatch):
    load(manifest)
    beside = tmp_path / "data" / "train.csv.packets.sqlite"
    before = beside.read_bytes()
    (tmp_path / "data").chmod(0o555)
    beside.chmod(0o444)
    forget()
    request.getfixturevalue("as_nobody")
    store = IndexStore.beside(manifest.path)
    assert store is not None and store.path == str(tmp_path / "cache" / "videonorm" / "packets.sqlite")
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        warnings.simplefilter("error")
        patch.delattr(index_store, "build_index")
        load(manifest)
        index = packet_index(str(tmp_path / "video.mp4"), store)
    store.put("/elsewhere.mp4", "1", index)
    assert store.get("/elsewhere.mp4", "1") is not None
    assert beside.read_bytes() == before


def in_a_process(manifest: Manifest, complaints) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(manifest)
        IndexStore("/nowhere/packets.sqlite").get("a", "1")
    complaints.put(len(caught))


def test_no_place_at_all_is_said_once(manifest, tmp_path, forget, request):
    complaints = multiprocessing.get_context("fork").SimpleQueue()
    for name in ("data", "cache"):
        (tmp_path / name).chmod(0o555)
    request.getfixturevalue("as_nobody")
    with pytest.warns(UserWarning, match=r"neither in .*/train.csv.packets.sqlite nor in .*/cache/") as said:
        for _ in range(2):
            load(manifest)
        IndexStore("/nowhere/packets.sqlite").get("a", "1")
    assert len(said) == 1
    in_a_process(manifest, complaints)
    assert complaints.get() == 0
    assert files_in(tmp_path / "data") == ["train.csv"] and os.listdir(tmp_path / "cache") == []


def test_processes_that_are_forked_say_it_once_together(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(index_store, "_said", index_store.mmap.mmap(-1, 1))
    context = multiprocessing.get_context("fork")
    complaints = context.SimpleQueue()
    counts = []
    for _ in range(2):
        worker = context.Process(target=in_a_process, args=(manifest, complaints))
        worker.start()
        counts.append(complaints.get())
        worker.join()
    assert counts == [1, 0]
