"""The files of the GRID corpus: which recordings there are, what is said in them when, and what is wrong."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Set
from pathlib import Path
from re import fullmatch
from typing import NamedTuple

from grid_sentence import Word, letter_of, words_of
from listing import Listed, read_lines
from matching import Problem, is_video
from script import progress

from videonorm.data import Split
from videonorm.data.class_folders import files_below
from videonorm.errors import UserError

# Of the times in align files, which count samples of the sound: 1,000 to a frame, 75,000 to a recording.
UNITS_PER_SECOND = 25_000
SILENCE = ("sil", "sp")


class SplitRule(NamedTuple):
    """What is for validation: sentences with certain letters, of certain speakers."""

    val_letters: Set[str]
    val_speakers: Set[str]

    def split_of(self, speaker: str, sentence: str) -> Split | None:
        """None for what would have a sentence or a speaker in both splits."""
        is_val = set()
        if self.val_letters:
            is_val.add(letter_of(sentence) in self.val_letters)
        if self.val_speakers:
            is_val.add(speaker in self.val_speakers)
        if len(is_val) != 1:
            return None
        return "val" if is_val.pop() else "train"


class Recording(NamedTuple):
    """One sentence of one speaker."""

    listed: Listed  # without a label: each of the words is one
    speaker: str
    sentence: str
    path: str  # absolute
    words: list[Word]  # six


class Corpus(NamedTuple):
    """What two folders hold."""

    speakers: list[str]  # those of whom there are videos
    listed: Counter[Split]  # recordings of which there is a video or an alignment
    left_out: int  # videos that are in neither split
    recordings: list[Recording]
    problems: list[Problem]
    notes: list[str]  # for the reader


def read_corpus(videos: Path, alignments: Path, rule: SplitRule) -> Corpus:
    """Find videos and align files by speaker and sentence, and read what is said when.

    A speaker's folder is called s and a number, at any depth; where there is none, it is the first folder.
    Zenodo's copy of the corpus has alignments in folders of other speakers: where another folder has most of
    a speaker's sentences, and that of its own name few, the other is taken.
    """
    found, problems = _find(videos, is_video)
    timed, more = _find(alignments, _is_alignment)
    problems += more
    recordings: list[Recording] = []
    notes: list[str] = []
    listed: Counter[Split] = Counter()
    left_out = 0
    used = set()
    for speaker, paths in progress(found.items(), "Reading alignments", len(found)):
        folder = _folder_of(speaker, paths.keys(), timed)
        aligns = timed.get(folder, {})
        used.add(folder)
        if folder != speaker:
            own = len(paths.keys() & timed.get(speaker, {}).keys())
            notes.append(
                f"{speaker} has the alignments in folder {folder}: {len(paths.keys() & aligns.keys()):,} of "
                f"its {len(paths):,} sentences are there, {own:,} in its own"
            )
        for sentence in sorted({**paths, **aligns}):
            split = rule.split_of(speaker, sentence)
            if split is None:
                left_out += sentence in paths
                continue
            listed[split] += 1
            path, align = paths.get(sentence, ""), aligns.get(sentence, "")
            video = Listed(align or path, split, f"{speaker}/{sentence}", None)
            if not align:
                problems.append(Problem("missing", path, "has no alignment", video))
            elif not path:
                problems.append(Problem("missing", video.name, "has an alignment and no file", video))
            else:
                result = _read(video, speaker, sentence, path)
                if isinstance(result, Problem):
                    problems.append(result)
                else:
                    recordings.append(result)
    if unused := timed.keys() - used:
        notes.append(f"speakers of whom there are alignments and no video: {len(unused)}")
    return Corpus(list(found), listed, left_out, recordings, problems, notes)


def _is_alignment(path: str) -> bool:
    name = os.path.basename(path)
    return name[0] != "." and name.lower().endswith(".align")


def _find(root: Path, is_wanted: Callable[[str], bool]) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Speaker -> sentence -> absolute path, and the files that are none of these."""
    root = root.absolute()
    of: dict[str, dict[str, str]] = defaultdict(dict)
    problems = []
    seen = set()
    for below, real in files_below(str(root)):
        if not is_wanted(below) or real in seen:
            continue
        seen.add(real)
        path = os.path.join(root, below)
        sentence = os.path.splitext(os.path.basename(below))[0].lower()
        if words_of(sentence) is None:
            problems.append(Problem("unlisted", path, "is left out: its name is no sentence's, as bbaf2n is"))
            continue
        first = of[_speaker_of(root, below)].setdefault(sentence, path)
        if first != path:
            problems.append(Problem("duplicate", path, f"has the same name as {first}, which is used"))
    return dict(sorted(of.items(), key=lambda item: (len(item[0]), item[0]))), problems  # s2 before s10


def _speaker_of(root: Path, below: str) -> str:
    folders = [root.name, *below.split(os.sep)[:-1]]
    numbered = [folder for folder in folders if fullmatch("[sS][0-9]+", folder)]
    return numbered[-1].lower() if numbered else folders[:2][-1]


def _folder_of(speaker: str, sentences: Set[str], aligns: dict[str, dict[str, str]]) -> str:
    """Where a speaker's alignments are; two speakers share one sentence in 64."""

    def num_shared(folder: str) -> int:
        return len(sentences & aligns.get(folder, {}).keys())

    best = max(aligns, key=num_shared, default=speaker)
    is_clear = 2 * num_shared(speaker) < len(sentences) < 2 * num_shared(best)
    return best if is_clear else speaker


def _read(video: Listed, speaker: str, sentence: str, path: str) -> Recording | Problem:
    try:
        words = read_align(Path(video.where))
    except UserError as error:
        return Problem("unreadable", path, str(error), video)
    said, named = ([word.text for word in words], words_of(sentence))
    if said != named:
        reason = f'says "{" ".join(said)}" by its alignment, and "{" ".join(named or [])}" by its name'
        return Problem("mismatch", path, reason, video)
    return Recording(video, speaker, sentence, path, words)


def read_align(path: Path) -> list[Word]:
    """The words of an align file, without silence, in seconds: ``start end word`` on each line.

    Raises:
        UserError: it has other lines, or times that do not follow each other.
    """
    words = []
    last = 0
    for where, line in read_lines(path):
        start, end, text = line.split() if len(line.split()) == 3 else ("", "", "")
        if not (start.isdecimal() and end.isdecimal() and last <= int(start) < int(end)):
            raise UserError(f"{where}: the line ({line}) must be start, end and a word, one after the other")
        last = int(end)
        if text not in SILENCE:
            words.append(Word(text, int(start) / UNITS_PER_SECOND, int(end) / UNITS_PER_SECOND))
    return words
