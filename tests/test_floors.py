"""The house: which room may import which (a room may import only what stands on a floor below it)."""

import ast
from pathlib import Path

import networkx  # comes with torch
import pytest

import videonorm

ROOT = Path(videonorm.__file__).parent
MAY_IMPORT = {
    "kernels": set(),
    "ops": {"kernels"},
    "layers": {"ops"},
    "models": {"layers"},
    "data": set(),
    "training": {"evaluation", "layers", "data"},
    "diagnostics": {"layers", "data"},
    "evaluation": {"ops", "models", "data"},
    "frontier": {"evaluation", "models", "layers"},
    "sweep": {"training_options"},
    "study": {"sweep"},
    "bench": {"ops", "layers", "models", "data"},
}
STATISTICS = {"differences", "intervals"}  # of a sweep and of an evaluation
EVERYWHERE = {"errors", "files", "interruption", "look", "machine", "messages", "options", "__version__"}
EVERYWHERE |= STATISTICS | {"processes", "step_table"}


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
            assert path.parent.name in ("training", "diagnostics"), path


def test_pytorchvideo_transforms_are_never_imported():
    # The published package's transforms need a module that torchvision has removed.
    for path in ROOT.rglob("*.py"):
        assert not any(name.startswith("pytorchvideo.transforms") for name in imports(path)), path


def test_no_two_modules_import_each_other():
    """Not by way of others either, inside functions, or for types alone; an annotation in quotes is none."""
    scripts = ROOT.parent / "data_prep"  # they import each other by their bare names
    paths = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    } | {path.stem: path for path in scripts.glob("*.py")}
    graph = networkx.DiGraph()
    for module, path in paths.items():
        for name in imports(path):
            # A name is a module, or in one; that a module lies in a package is no import of the package.
            imported = name if name in paths else name.rpartition(".")[0]
            if imported in paths:
                graph.add_edge(module, imported)
    circles = [" -> ".join([*circle, circle[0]]) for circle in networkx.simple_cycles(graph)]
    assert not circles, "\n".join(["circles of imports:", *sorted(circles)])


# Each renames what it has not written: a database that is put aside, a record that is finished.
RENAME_THEMSELVES = {"files.py", "index_store.py", "records.py"}


def test_files_are_written_in_one_place():
    """Aside, synced, renamed: no module has a way of its own, or knows the cache folder's place."""
    own_ways = {"tempfile.NamedTemporaryFile", "tempfile.mkstemp", "os.replace", "os.rename", "Path.rename"}
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "data_prep").glob("*.py")]:
        text = path.read_text()
        if path.name not in RENAME_THEMSELVES:
            assert not [way for way in own_ways if way in text], path
        if path != ROOT / "files.py":
            assert "XDG_CACHE_HOME" not in text, path


def test_no_file_is_long():
    """One concept a file: 400 lines at the most."""
    files = [*ROOT.rglob("*.py"), *ROOT.rglob("*.j2"), *(ROOT.parent / "tests").rglob("*.py")]
    files += (ROOT.parent / "data_prep").glob("*.py")
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 400} == {}
