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
    best = probabilities.topk(min(top, len(probabilities)))
    return [
        Answer(label, class_name(card, label), probability)
        for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def class_name(card: Card, label: int) -> str:
    names = card.class_names or []
    return names[label] if label < len(names) else str(label)


def in_words(answers: Iterable[Answer]) -> str:
    return ", ".join(map(str, answers))


def as_records(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    return [answer._asdict() for answer in answers]
