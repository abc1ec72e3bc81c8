"""The pages that Sphinx builds, tested without Sphinx."""

import ast
import inspect
import re
from importlib import import_module

import pytest

import entrosparse
from documents import ROOT

PACKAGES = ["estimators", "images", "inference", "learning", "likelihoods", "posteriors", "priors"]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))


def names_in_the_reference():
    """Return the full names in the API reference, in order."""
    names, module = [], ""
    for line in (ROOT / "docs/api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   [\w.]+", line):
            names.append(f"{module}.{line.strip()}")
    return names


def public_names():
    """Return all names that users import, each where the reference has it."""
    names = {f"entrosparse.{name}" for name in entrosparse.__all__}
    for package in PACKAGES:
        module = import_module(f"entrosparse.{package}")
        for name, member in vars(module).items():
            is_public = not name.startswith("_") and not inspect.ismodule(member)
            if is_public and name not in entrosparse.__all__:
                names.add(f"{module.__name__}.{name}")
    return names


def test_every_public_name_has_a_place_in_the_reference():
    listed = names_in_the_reference()
    assert len(listed) == len(set(listed))
    assert not public_names() - set(listed)


def test_the_reference_lists_what_there_is():
    for name in names_in_the_reference():
        home, _, last = name.rpartition(".")
        assert hasattr(import_module(home), last)


def test_every_page_is_in_a_table_of_contents():
    pages = {path for suffix in ("md", "rst") for path in ROOT.glob(f"docs/**/*.{suffix}")}
    made = {ROOT / "docs" / folder for folder in ("_build", "_templates", "gallery", "reference")}
    pages = {path for path in pages if not made & set(path.parents)}
    listed = set()
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"```\{toctree\}\n(?::\w+:.*\n)*\n?((?:.+\n)+?)```", text):
            listed |= {(path.parent / entry).resolve() for entry in block.split()}
    assert {path.with_suffix("") for path in pages} - listed == {ROOT / "docs/index"}


def test_every_example_has_a_place_in_the_gallery():
    order = re.findall(r'"(\w+\.py)"', (ROOT / "docs/conf.py").read_text(encoding="utf-8"))
    assert sorted(order) == [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_import_only_public_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "entrosparse":
            for alias in node.names:
                assert not alias.name.startswith("_")
                assert hasattr(import_module(node.module), alias.name)
