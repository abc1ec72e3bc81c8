"""Imports go one way: each module imports from its own room and from the rooms before it."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
ROOMS = """
    errors _convergence closed_form
    _checks _files _plain _tensors _threads _launch
    processes
    priors
    posteriors
    likelihoods
    model
    _tables row_files statistics
    annealing
    objectives metrics
    inference
    learning
    _units
    recipes
    images
    app.config app.image_codes app.row_codes app.run_files app.runs
    estimators
    app
    reproduce
    app.commands app.cli
    __main__
"""
ROOM = {f"entrosparse.{name}": k for k, room in enumerate(ROOMS.split("\n")) for name in room.split()}
ROOM["entrosparse"] = len(ROOMS)  # the names for users come from everywhere, and nothing within may use them
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.glob("entrosparse/**/*.py")
}


def room_of(module):
    """The room of a module, or of the nearest package around it that has one."""
    owner = module
    while owner not in ROOM:
        owner = owner.rpartition(".")[0]
    assert owner != "entrosparse" or module == owner, f"{module} belongs to no room"
    return ROOM[owner]


def imports(module):
    """All modules of ours that a module imports, those in functions and for type checkers included."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "entrosparse")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "entrosparse":
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in inner)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    room = room_of(module)
    upward = [name for name in imports(module) if room_of(name) > room]
    assert not upward


def test_no_two_files_have_one_name():
    names = [path.stem for path in SOURCE.glob("entrosparse/**/*.py") if path.stem != "__init__"]
    assert len(set(names)) == len(names)
