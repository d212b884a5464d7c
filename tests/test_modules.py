"""A package's names: what it re-exports does not hide a module of it."""

import importlib
import pkgutil
from types import ModuleType

import pytest

import videonorm

PACKAGES = [info.name for info in pkgutil.walk_packages(videonorm.__path__, "videonorm.") if info.ispkg]


@pytest.mark.parametrize("name", ["videonorm", *PACKAGES])
def test_no_name_of_a_package_hides_a_module(name):
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__):
        found = getattr(package, module.name, None)  # there once something has imported it
        assert found is None or isinstance(found, ModuleType), f"{name}.{module.name} is {found}"
