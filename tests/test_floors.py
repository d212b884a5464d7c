"""The house: which room may import which (a room may import only what stands on a floor below it)."""

import ast
from pathlib import Path

import pytest

import videonorm

ROOT = Path(videonorm.__file__).parent
MAY_IMPORT = {
    "kernels": set(),
    "ops": {"kernels"},
    "layers": {"ops"},
    "models": {"layers"},
    "data": set(),
    "training": {"data"},
    "evaluation": {"ops", "models", "data"},
    "sweep": set(),
    "bench": {"ops", "layers", "models", "data"},
}
EVERYWHERE = {"errors", "files", "machine", "messages", "options", "__version__"}


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, at the top or inside a function."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))
def test_a_room_imports_only_from_the_floors_below(room):
    for path in (ROOT / room).rglob("*.py"):
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("videonorm.")}
        assert ours - {room, *EVERYWHERE} <= MAY_IMPORT[room], path


def test_only_training_imports_lightning():
    for path in ROOT.rglob("*.py"):
        if any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imports(path)):
            assert path.parent.name == "training", path


def test_pytorchvideo_transforms_are_never_imported():
    # The published package's transforms need a module that torchvision has removed.
    for path in ROOT.rglob("*.py"):
        assert not any(name.startswith("pytorchvideo.transforms") for name in imports(path)), path
