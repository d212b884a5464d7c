"""Which classes the description of a network may name, where it comes in a file that is not trusted.

jsonargparse imports whatever module a class path names, and an import runs the module's code. The recipe of
`videonorm fit` is a person's own and names what it likes; a card or a checkpoint may come from anybody.

What remains: a description can ask for a network of any size, and torchvision's and pytorchvideo's builders
for the weights that these projects publish, which they download and unpickle.
"""

import importlib
import inspect
import re
import types
import typing
from typing import Any

from torch import nn

from videonorm.errors import UserError

PACKAGES = ("videonorm", "torch.nn", "torchvision.models", "pytorchvideo.models")
IMPORTABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def check_classes(description: Any, source: str) -> None:
    """Refuse a description that names anything but networks and layers of PACKAGES, wherever in it.

    Every text counts, whatever its key is: which of them are class paths, the arguments' types decide.

    Raises:
        UserError: ``source`` names something else, or has a text that could be read as a description.
    """
    if isinstance(description, dict):
        for key, value in description.items():
            check_classes(key, source)
            check_classes(value, source)
    elif isinstance(description, list | tuple):
        for value in description:
            check_classes(value, source)
    elif isinstance(description, str):
        if not re.fullmatch(r"[\w.+/-]*", description):
            _refuse(description, source, "is no plain word")  # jsonargparse would parse it, as YAML
        elif IMPORTABLE.fullmatch(description):
            _check_path(description, source)


def _check_path(path: str, source: str) -> None:
    """Look the path up as an import would, but through modules of PACKAGES alone."""
    package = next((name for name in PACKAGES if path.startswith(f"{name}.")), None)
    if package is None:
        _refuse(path, source, "is in none of them")
    found: Any = importlib.import_module(package)
    for name in path.removeprefix(f"{package}.").split("."):
        if not isinstance(found, types.ModuleType) or not _defined_in(found.__name__, package):
            _refuse(path, source, f"leads out of {package}")
        if not hasattr(found, name) and hasattr(found, "__path__"):
            try:
                importlib.import_module(f"{found.__name__}.{name}")
            except ImportError:
                return  # whoever builds the network will say that there is none
        if not hasattr(found, name):
            return
        found = getattr(found, name)
    if isinstance(found, types.ModuleType) or not _defined_in(getattr(found, "__module__", ""), package):
        _refuse(path, source, f"leads out of {package}")
    if not _makes_a_module(found):
        _refuse(path, source, "is no network and no layer")


def _defined_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _makes_a_module(found: Any) -> bool:
    """Whether it is a class of modules, or a public function that says that it returns one.

    Not one that is told where to load weights from: they would be unpickled.
    """
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    if not isinstance(found, types.FunctionType) or found.__name__.startswith("_"):
        return False
    try:
        returned = typing.get_type_hints(found).get("return")
    except NameError:  # a type that is known to type checkers alone
        return False
    loads = {"checkpoint_path", "path", "url"} & inspect.signature(found).parameters.keys()
    return isinstance(returned, type) and issubclass(returned, nn.Module) and not loads


def _refuse(path: str, source: str, why: str) -> typing.NoReturn:
    packages = f"{', '.join(PACKAGES[:-1])} or {PACKAGES[-1]}"
    raise UserError(
        f"{source} must name networks and layers of {packages}, and {path!r} {why}; --trust lets it name "
        "whatever can be imported, which runs code"
    )
