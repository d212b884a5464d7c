import pickle

import pytest

from videonorm.data import Entry
from videonorm.data.entries import UNLABELLED, Entries

ENTRIES = [
    Entry("/a b/ä\n.mp4", 3, 0.1, 2.5),
    Entry("", 0),
    Entry("/not utf-8 \udcff.mp4", UNLABELLED, None, 1e-9),
    Entry("s3://bucket/1/2.mp4", 2**40, 0.0),
]


def test_entries_are_those_put_in():
    entries = Entries.of(iter(ENTRIES))
    assert len(entries) == 4 and list(entries) == ENTRIES and entries == ENTRIES
    assert [entries[i] for i in (0, 3, -1, -4)] == [ENTRIES[i] for i in (0, 3, -1, -4)]
    assert entries[1:3] == ENTRIES[1:3] and entries[::-2] == ENTRIES[::-2] and entries[9:] == []
    assert entries.labels.tolist() == [entry.label for entry in ENTRIES]
    assert all(isinstance(entry.start_seconds, float | None) for entry in entries)
    assert pickle.loads(pickle.dumps(entries)) == ENTRIES
    assert Entries.of(ENTRIES[:2]) != ENTRIES and hash(Entries.of(ENTRIES)) == hash(entries)
    assert list(Entries([], [])) == []
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            entries[beyond]


def test_many_entries_take_little_more_than_their_text():
    text = "/data/kinetics400/train/archery/abcdefghijk_000001_000011.mp4"
    assert len(pickle.dumps(Entries([text] * 1000, [7] * 1000))) < 1000 * (len(text) + 40)
