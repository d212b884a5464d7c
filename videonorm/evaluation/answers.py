"""The classes that a network answers with, by their names and in words."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from videonorm.evaluation.artifact import Card
from videonorm.look import percent


class Answer(NamedTuple):
    """A class and its probability."""

    label: int
    name: str  # the label's number where the card has no name for it
    probability: float

    def __str__(self) -> str:
        return f"{self.name} {percent(self.probability)}"


def top_answers(probabilities: Tensor, card: Card, top: int) -> list[Answer]:
    """The ``top`` of all classes by their ``probabilities`` (K,), the most likely first."""
    names = class_names(card)
    best = probabilities.topk(min(top, len(probabilities)))
    return [
        Answer(label, names[label], probability)
        for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def class_names(card: Card) -> list[str]:
    """By label. A card may have fewer names than classes: the others are known by their numbers alone."""
    given = card.class_names or []
    return [*given, *map(str, range(len(given), card.num_classes))]


def in_words(answers: Iterable[Answer]) -> str:
    return ", ".join(map(str, answers))


def as_records(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    return [answer._asdict() for answer in answers]
