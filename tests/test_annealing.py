import pytest

from entrosparse.annealing import SCHEDULES, EntropyWeights, constant, get_schedule, stretched
from entrosparse.errors import InputError


def test_schedules_are_those_of_the_paper():
    assert [SCHEDULES["prior"](i).prior for i in range(7)] == [10, 8, 6, 4, 2, 1, 1]
    assert [SCHEDULES["likelihood"](i).likelihood for i in range(9)] == pytest.approx(
        [1 / 7, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2, 1, 1, 1]
    )
    assert all(SCHEDULES["prior"](i).likelihood == 1 for i in range(9))
    assert all(SCHEDULES["likelihood"](i).prior == 1 for i in range(9))
    assert [SCHEDULES["tempering"](i) for i in (0, 4, 8)] == [
        EntropyWeights(10, 10),
        EntropyWeights(2, 2),
        EntropyWeights(),
    ]
    assert all(SCHEDULES["none"](i) == EntropyWeights() for i in range(3))
    assert constant(2.0)(0) == constant(2.0)(99) == EntropyWeights(2.0, 1.0)


def test_stretching_covers_the_epochs():
    schedule = stretched(SCHEDULES["prior"], 40)
    assert [schedule(4 * i) for i in range(10)] == [SCHEDULES["prior"](i) for i in range(10)]


def test_names_and_callables():
    assert get_schedule("prior") is SCHEDULES["prior"]
    assert get_schedule(constant(2.0))(3).prior == 2.0
    with pytest.raises(InputError, match=r"'none', 'prior', 'likelihood', 'tempering'.*'warm'"):
        get_schedule("warm")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_positive(value):
    with pytest.raises(InputError, match="prior"):
        EntropyWeights(prior=value)
