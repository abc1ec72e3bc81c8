"""What checkpoints know a run by: parts that differ have different words, in every process the same."""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from entrosparse.errors import InputError
from entrosparse.inference import DiagonalEncoder
from entrosparse.learning import OnlineEM
from entrosparse.learning._identity import in_words, rows_in_words, words
from entrosparse.priors import Laplace


@dataclass(frozen=True)
class Part:
    shape: float = 0.5


class Plain:
    """Not a dataclass, but with all that it is in its attributes."""

    def __init__(self, shape):
        self.shape = shape


class Slotted:
    __slots__ = ("shape",)


def closing_over(shape):
    return lambda z: z**shape


def with_default(shape):
    def function(z, power=shape):
        return z**power

    return function


DIFFERENT = {
    "numbers": (0.5, 0.25),
    "dataclasses": (Part(), Part(0.25)),
    "objects": (Plain(1), Plain(2)),
    "arrays": (np.arange(3), np.arange(1, 4)),
    "shapes of arrays": (np.zeros((2, 3)), np.zeros((3, 2))),
    "types of arrays": (np.zeros(3), np.zeros(3, np.float32)),
    "closures": (closing_over(1.0), closing_over(2.0)),
    "defaults": (with_default(1.0), with_default(2.0)),
    "code": (lambda z: z + 1, lambda z: z - 1),
    "constants": (lambda z: z + 1, lambda z: z + 2),
    "names": (lambda z: np.exp(z), lambda z: np.log(z)),
    "partials": (partial(closing_over, shape=1), partial(closing_over, shape=2)),
    "methods": (Plain(1).__init__, Plain(2).__init__),
    "classes": (DiagonalEncoder, OnlineEM),
    "modules": (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    "inner parts": ({"a": [Part()]}, {"a": [Part(0.25)]}),
    "order": ((1, 2), (2, 1)),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_parts_that_differ_have_different_words(pair):
    one, other = (words(part, "part") for part in pair)
    assert one != other
    assert [words(part, "part") for part in pair] == [one, other]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (8, np.int64(8)),
        (0.5, np.float64(0.5)),
        (Part(1), Part(1.0)),
        (closing_over(1.0), closing_over(1.0)),
        (np.arange(3), torch.arange(3)),
        (Laplace(), Laplace()),
    ],
)
def test_parts_that_are_worth_the_same_have_the_same_words(one, other):
    assert words(one, "part") == words(other, "part")


def test_words_of_functions_are_the_same_in_another_process(capsys):
    program = (
        "from functools import partial\n"
        "from entrosparse.learning._identity import in_words\n"
        "def make(shape):\n    return lambda z: z in {'a', 'b', 'c', 'd'} or z**shape\n"
        "print(in_words(partial(make(2.0), 1)))"
    )
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    exec(program, {"__name__": "__main__"})
    here = capsys.readouterr().out
    assert there == here
    assert " at 0x" not in here


@pytest.mark.parametrize("part", [Slotted(), object(), iter([1]), Part(iter([1]))])
def test_what_cannot_be_told_apart_is_refused(part):
    with pytest.raises(InputError, match=r"must be able to tell what 'part(\.shape)?' is; a \w+ cannot be"):
        words(part, "part")


def test_rows_are_known_by_all_of_them():
    rows = np.arange(60.0).reshape(20, 3)
    changed = rows.copy()
    changed[17, 1] += 1e-9
    assert rows_in_words([rows]) == rows_in_words([rows[:7], rows[7:]]) != rows_in_words([changed])
    assert rows_in_words([rows]) != rows_in_words([rows.reshape(10, 6)])
    assert "20 rows of float64 (3,)" in rows_in_words([rows])
    assert in_words(None) == "None"
