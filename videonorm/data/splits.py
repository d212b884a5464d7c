"""The splits of a data set, and the words that folders and lists have for them."""

from typing import Literal

Split = Literal["train", "val", "test"]

SPLIT_WORDS: dict[str, Split] = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validate": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
