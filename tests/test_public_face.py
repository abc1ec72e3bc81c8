"""What users import: the names of the package, and those of the packages within it."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import entrosparse

HOME = Path(entrosparse.__file__).parent
STUB = ast.parse((HOME / "__init__.pyi").read_text(encoding="utf-8"))
HOMES = {
    alias.name: node.module for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names
}
PACKAGES = ["estimators", "images", "inference", "learning", "likelihoods", "posteriors", "priors"]


def test_the_list_of_names_is_sorted_and_complete():
    (listed,) = (ast.literal_eval(node.value) for node in STUB.body if isinstance(node, ast.Assign))
    assert listed == sorted(HOMES)
    assert sorted(entrosparse.__all__) == listed
    assert set(listed) <= set(dir(entrosparse))


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_public_name_is_the_object_of_its_home(name):
    assert not any(part.startswith("_") for part in HOMES[name].split("."))
    found = getattr(entrosparse, name)
    assert found is getattr(import_module(f"entrosparse.{HOMES[name]}"), name)
    assert inspect.getdoc(found)


def test_the_version_is_that_of_the_installed_package():
    assert entrosparse.__version__ == version("entrosparse")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="sparse_coding"):
        _ = entrosparse.sparse_coding


@pytest.mark.parametrize("package", PACKAGES)
def test_all_that_users_import_comes_from_the_package_itself(package):
    files = {path.name for path in (HOME / package).glob("*.py*")} - {"__init__.py", "__pycache__"}
    assert all(name.startswith("_") for name in files)
    tree = ast.parse((HOME / package / "__init__.py").read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    module = import_module(f"entrosparse.{package}")
    assert names
    assert not any(name.startswith("_") for name in names)
    assert names <= set(getattr(module, "__all__", names))


def test_importing_the_package_imports_nothing_heavy():
    script = "import sys, entrosparse; print({'numpy', 'scipy', 'sklearn', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
