from collections import Counter, defaultdict
from pathlib import Path

import pytest

from videonorm.data import Entries, Entry, Manifest, MotionClips, hold_out
from videonorm.errors import UserError


def manifest_of(*entries: Entry) -> Manifest:
    return Manifest(Path("train.csv"), Entries.of(entries), num_classes=1 + max(e.label for e in entries))


def one_a_file(*sizes: int, root: str = "/data/set") -> Manifest:
    return manifest_of(
        *(Entry(f"{root}/{label}/{i}.mp4", label) for label, size in enumerate(sizes) for i in range(size))
    )


def labels(manifest: Manifest) -> Counter[int]:
    return Counter(manifest.entries.labels.tolist())


@pytest.mark.parametrize(
    "share, held", [(0.2, [20, 2, 1, 1, 0]), (0.5, [50, 6, 2, 1, 0]), (0.001, [1] * 4 + [0])]
)
def test_of_each_class_its_share_is_held_out(share, held):
    """At least one of two, and never the last."""
    manifest = one_a_file(100, 11, 3, 2, 1)
    kept, apart = hold_out(manifest, share)
    assert [labels(apart)[label] for label in range(5)] == held
    assert labels(kept) + labels(apart) == labels(manifest)
    assert not set(kept.entries) & set(apart.entries)
    assert list(kept.entries) == [
        entry for entry in manifest.entries if entry in set(kept.entries)
    ]  # in order
    assert (kept.path, kept.num_classes, apart.num_classes) == (manifest.path, 5, 5)


def test_nearly_all_leaves_one_to_train_on():
    kept, _ = hold_out(one_a_file(50, 2, 1), 0.999)
    assert labels(kept) == {0: 1, 1: 1, 2: 1}


def test_it_is_the_same_wherever_the_videos_lie_and_however_they_are_listed():
    def names(manifest: Manifest) -> set[str]:
        return {
            entry.path.removeprefix("s3://bucket").removeprefix("/data/set") for entry in manifest.entries
        }

    manifest = one_a_file(30, 30)
    apart = names(hold_out(manifest, 0.3)[1])
    assert apart == names(hold_out(one_a_file(30, 30, root="s3://bucket"), 0.3)[1])
    assert apart == names(hold_out(manifest_of(*reversed(list(manifest.entries))), 0.3)[1])
    assert len({Path(path).name for path in apart}) > 9  # not the same numbers of both classes
    assert apart != {f"/{label}/{i}.mp4" for label in (0, 1) for i in range(9)}


def test_stretches_of_a_file_stay_together():
    """As of sentences, whose words are the classes: each class near its share all the same."""
    entries = [
        Entry(f"/s/{file}.mp4", (file * (word + 3) + word) % 7, float(word), word + 1.0)
        for file in range(200)
        for word in range(6)
    ]
    kept, apart = hold_out(manifest_of(*entries), 0.2)
    files = defaultdict(set)
    for side, manifest in (("kept", kept), ("apart", apart)):
        for entry in manifest.entries:
            files[entry.path].add(side)
    assert {len(sides) for sides in files.values()} == {1} and len(files) == 200
    for label, number in labels(manifest_of(*entries)).items():
        assert 0.1 < labels(apart)[label] / number <= 0.2 + 0.5 / number


def test_a_class_in_one_file_is_trained_on():
    whole = [Entry("/s/whole.mp4", 0, float(i), i + 1.0) for i in range(4)]
    kept, apart = hold_out(manifest_of(*whole, Entry("/s/a.mp4", 1), Entry("/s/b.mp4", 1)), 0.5)
    assert (labels(kept), labels(apart)) == ({0: 4, 1: 1}, {1: 1})
    # Of a class whose files are all large, one is held out nevertheless.
    halves = [Entry(f"/s/{i // 5}.mp4", 0, float(i), i + 1.0) for i in range(10)]
    assert labels(hold_out(manifest_of(*halves), 0.1)[1]) == {0: 5}
    with pytest.raises(
        UserError, match=r"held_out \(0.5\) must leave .* no class of train.csv has two files"
    ):
        hold_out(manifest_of(*whole), 0.5)


def test_motion_clips(tmp_path):
    source = MotionClips(tmp_path, num_train=40, num_val=4, num_test=4)
    rows = [f"train/{label}/{i:05d}.mp4,{label}" for i in range(10) for label in source.class_names]
    source.root.mkdir()
    for row in rows:
        path = source.root / row.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (source.root / "train.csv").write_text("\n".join(["path,label", *rows]))
    kept, apart = hold_out(source.manifest("train"), 0.2)
    assert labels(apart) == dict.fromkeys(range(4), 2) and labels(kept) == dict.fromkeys(range(4), 8)
    assert kept.class_names == apart.class_names == source.class_names
