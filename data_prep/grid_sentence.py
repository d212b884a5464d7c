"""A sentence of the GRID corpus: six words, their letters in its name, the stretch of video that shows one.

Source: Cooke, Barker, Cunningham and Shao, "An audio-visual corpus for speech perception and automatic speech
recognition", JASA 120(5), 2006.
"""

from typing import NamedTuple

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "abcdefghijklmnopqrstuvxyz"  # without w, whose name is long

# By position in the sentence: what stands for a word in its name. bbaf2n is "bin blue at f two now".
VOCABULARY = {
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "colour": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in LETTERS},
    "digit": dict(zip("z123456789", DIGITS, strict=True)),
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}
POSITIONS = tuple(VOCABULARY)
VIDEO_SECONDS = 3.0  # 75 frames, 25 a second: every recording


class Word(NamedTuple):
    """A word and when it is said, in seconds of the video."""

    text: str
    start_seconds: float
    end_seconds: float


def class_names(position: str) -> list[str]:
    """The words that can stand there, by label: in alphabetical order, those that a corpus lacks too."""
    return sorted(VOCABULARY[position].values())


def words_of(name: str) -> list[str] | None:
    """The words of a sentence by its name; None if no sentence is called so."""
    if len(name) != len(POSITIONS):
        return None
    words = [VOCABULARY[position].get(letter) for position, letter in zip(POSITIONS, name, strict=True)]
    known = [word for word in words if word is not None]
    return known if len(known) == len(words) else None


def letter_of(name: str) -> str:
    """The spoken letter of a sentence."""
    return name[POSITIONS.index("letter")]


def stretch(word: Word, margin_seconds: float, min_seconds: float) -> tuple[float, float]:
    """Start and end, in seconds, of what shows a word, with a margin on either side.

    What is shorter than ``min_seconds`` grows on both sides alike, but where the video begins or ends.
    """
    lacking = max(0.0, min_seconds - 2 * margin_seconds - (word.end_seconds - word.start_seconds))
    start = max(0.0, word.start_seconds - margin_seconds - lacking / 2)
    end = min(VIDEO_SECONDS, max(word.end_seconds + margin_seconds + lacking / 2, start + min_seconds))
    return max(0.0, min(start, end - min_seconds)), end
