"""`module:attribute`: where it is looked up, and what is said where it is not there."""

import sys

import pytest

from choral.config.references import is_reference, resolve
from choral.core.errors import MissingExtra, TaskNotFound


@pytest.fixture
def folder(tmp_path):
    before, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a:b", True),
        ("pkg.mod:attr", True),
        ("data/", False),
        ("a", False),
        (":b", False),
        ("a:", False),
        ("C:/data", False),
        ("a:b:c", False),
        ("a-b:c", False),
    ],
)
def test_what_a_reference_is(text, answer):
    assert is_reference(text) is answer


def test_the_file_s_folder_comes_first(folder):
    (folder / "my_task_a.py").write_text("thing = 7\n")
    assert resolve("my_task_a:thing", folder, what="task") == 7


def test_a_package_s_module(folder):
    (folder / "my_pkg").mkdir()
    (folder / "my_pkg" / "__init__.py").write_text("")
    (folder / "my_pkg" / "inner.py").write_text("thing = 8\n")
    assert resolve("my_pkg.inner:thing", folder, what="task") == 8


@pytest.mark.parametrize(
    ("reference", "words", "hint"),
    [
        ("my_tsk_b:thing", "no module `my_tsk_b`; looked in", "did you mean `my_task_b`"),
        ("my_task_b:thingy", "has no `thingy`", "did you mean `thing`"),
        ("my_task_b", "is not a reference", "module:attribute"),
    ],
)
def test_what_is_not_there_is_named(folder, reference, words, hint):
    (folder / "my_task_b.py").write_text("thing = 7\n")
    with pytest.raises(TaskNotFound, match=words) as caught:
        resolve(reference, folder, what="task")
    assert hint in caught.value.hint


def test_a_module_that_raises_is_named_with_its_cause(folder):
    (folder / "my_task_c.py").write_text("1 / 0\n")
    with pytest.raises(TaskNotFound, match="ZeroDivisionError") as caught:
        resolve("my_task_c:thing", folder, what="task")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_module_that_lacks_a_package_names_it(folder):
    (folder / "my_task_d.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(MissingExtra, match="no_such_package_at_all"):
        resolve("my_task_d:thing", folder, what="task")
