"""A checkpoint leaves the project and is judged as an artifact: export, load, evaluate. Without Lightning."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videonorm.evaluation.artifact import Artifact, Card, InputSpec, load_artifact, load_checkpoint
    from videonorm.evaluation.evaluate import evaluate_artifact
    from videonorm.evaluation.export import export_checkpoint
    from videonorm.evaluation.views import score_videos

__all__ = [
    "Artifact",
    "Card",
    "InputSpec",
    "evaluate_artifact",
    "export_checkpoint",
    "load_artifact",
    "load_checkpoint",
    "score_videos",
]


def __getattr__(name: str) -> Any:
    """Import torch with the first name asked for, not before: the commands' --help is in this package too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {"evaluate_artifact": "evaluate", "export_checkpoint": "export", "score_videos": "views"}
    return getattr(importlib.import_module(f"{__name__}.{modules.get(name, 'artifact')}"), name)
