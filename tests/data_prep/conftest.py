"""The scripts as modules, and the numbered videos of tests/data."""

import importlib.util
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS.parent / "data_prep"))  # where a script finds its neighbours

_spec = importlib.util.spec_from_file_location("numbered_videos", TESTS / "data/conftest.py")
_numbered = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_numbered)


@pytest.fixture(scope="session")
def make_video():
    return _numbered.write_video


@pytest.fixture(scope="session")
def kinds():
    """Name -> how ``make_video`` makes it."""
    return _numbered.VIDEOS


@pytest.fixture(scope="session")
def number_of():
    return _numbered.shown_number
