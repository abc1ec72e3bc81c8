"""What is said in several files of a release is the same in all of them."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import entrosparse
from documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def floors(requirements):
    """The oldest version of each package, by its name in lower case."""
    (specifiers,) = zip(*(requirement.specifier for requirement in requirements), strict=True)
    assert all(specifier.operator == ">=" for specifier in specifiers)
    names = (requirement.name.lower() for requirement in requirements)
    return {name: Version(found.version) for name, found in zip(names, specifiers, strict=True)}


def test_the_version_is_that_of_the_citation_and_of_the_recipe():
    assert read_yaml("CITATION.cff")["version"] == entrosparse.__version__
    assert read_yaml("recipe/recipe.yaml")["context"]["version"] == entrosparse.__version__


def test_the_oldest_versions_that_are_allowed_are_those_that_are_tested():
    lines = (ROOT / "requirements-oldest.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    allowed = floors(NEEDED + OPTIONAL)
    assert {name: Version(locked[name]) for name in allowed} == allowed


def test_the_recipe_needs_what_the_package_needs():
    needs = read_yaml("recipe/recipe.yaml")["requirements"]
    python, *needed = needs["run"]
    assert python.startswith("python ")
    assert floors([Requirement(text) for text in needed]) == {
        CONDA.get(name, name): floor for name, floor in floors(NEEDED).items()
    }
    assert floors([Requirement(text) for text in needs["run_constraints"]]) == floors(OPTIONAL)


def test_the_versions_of_python_are_those_that_are_tested():
    named = [found for text in PROJECT["classifiers"] if (found := re.fullmatch(r".+ :: (3\.\d+)", text))]
    jobs = read_yaml(".github/workflows/tests.yml")["jobs"]
    assert [found[1] for found in named] == jobs["locked"]["strategy"]["matrix"]["python"]
    oldest = named[0][1]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert read_yaml("recipe/recipe.yaml")["context"]["python_min"] == oldest


def test_what_is_checked_before_a_commit_is_what_make_checks():
    check = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncheck: ")[1].split("\n\n")[0]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in check.splitlines()[1:]]
    hooks = read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [line for line in commands if "pytest" not in line]
