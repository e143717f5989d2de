"""The examples in docstrings, of every module whose packages are installed."""

import doctest
import importlib
import pkgutil

import pytest

import choral
from choral.core.errors import MissingExtra

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(choral.__path__, "choral.") if m.name != "choral.__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    try:
        module = importlib.import_module(name)
    except (MissingExtra, ModuleNotFoundError) as error:
        pytest.skip(str(error))
    failed, _ = doctest.testmod(module)
    assert not failed


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = [t for n in MODULES if n.startswith("choral.core") for t in _tests(finder, n)]
    assert len(found) > 8


def _tests(finder, name):
    return [t for t in finder.find(importlib.import_module(name)) if t.examples]
