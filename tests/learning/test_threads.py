import subprocess
import sys
import warnings
from pathlib import Path
from threading import Barrier, Event, Thread, get_ident

import pytest
import torch

import entrosparse
from conftest import make_model
from entrosparse._threads import as_many_threads_as_help, in_threads
from entrosparse.learning import Callback, OnlineEM, train


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_work_uses_one_thread_and_gives_the_others_back(two_threads):
    with as_many_threads_as_help(512, 256, 100):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), as_many_threads_as_help(8, 8, 8):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


def test_large_work_uses_those_that_were_set(two_threads):
    with as_many_threads_as_help(4096, 1024, 1024):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("n_parts", [0, 1, 2, 3, 20])
def test_parts_are_worked_at_side_by_side_and_come_in_order(two_threads, n_parts):
    used, both = set(), Barrier(2, timeout=60)

    def work(number, square):
        used.add((get_ident(), torch.get_num_threads()))
        if n_parts > 1 and number < 2:
            both.wait()
        return number, square

    parts = [(k, k * k) for k in range(n_parts)]
    assert list(in_threads(work, iter(parts))) == parts
    assert {number for _, number in used} <= ({1} if n_parts > 1 else {2})
    assert n_parts < 2 or len(used) == 2
    assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_is_raised_and_leaves_the_threads(two_threads):
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda k: 1 // k, [(1,), (0,), (2,)]))
    assert torch.get_num_threads() == 2


def test_threads_change_no_bit(generator):
    x = make_model(30, 10, generator, torch.float32).sample(30_000, generator)[0].numpy()
    models = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        try:
            models.append(
                train(OnlineEM(), x, init="random", n_components=10, epochs=1, batch_size=15_000).model
            )
        finally:
            torch.set_num_threads(1)
    assert torch.equal(models[0].dictionary, models[1].dictionary)
    assert torch.equal(models[0].noise_variance, models[1].noise_variance)


def test_learning_small_models_uses_one_thread(two_threads, generator):
    seen = set()

    class Watcher(Callback):
        def on_batch(self, samples_seen):
            seen.add(torch.get_num_threads())

    data = make_model(6, 3, generator, torch.float32).sample(200, generator)[0].numpy()
    train(OnlineEM(), data, data[:20], n_components=3, epochs=1, batch_size=50, callbacks=(Watcher(),))
    assert seen == {1}
    assert torch.get_num_threads() == 2


def test_fits_side_by_side_leave_threads_and_warnings_as_they_were(two_threads, generator):
    data = make_model(6, 3, generator, torch.float32).sample(200, generator)[0].numpy()
    after, filters, begun, ended = [], list(warnings.filters), Event(), Event()

    class First(Callback):
        """Waits in the middle of its fit until the other fit is in the middle too."""

        def on_epoch(self, model, record):
            if record.epoch == 1:
                second.start()
                assert begun.wait(60)

    class Second(Callback):
        """Waits in the middle of its fit until the other fit has ended."""

        def on_epoch(self, model, record):
            if record.epoch == 1:
                begun.set()
                assert ended.wait(60)

    def fit(callback, done):
        train(OnlineEM(), data, n_components=3, epochs=2, callbacks=(callback,))
        after.append(torch.get_num_threads())
        done.set()

    first, second = (Thread(target=fit, args=pair) for pair in ((First(), ended), (Second(), Event())))
    first.start()
    first.join()
    second.join()
    later = Thread(target=lambda: after.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert after == [2, 2, 2]
    assert torch.get_num_threads() == 2
    assert warnings.filters == filters


WORKERS = """
import multiprocessing, os, sys
import joblib, numpy, torch
from entrosparse import SparseCoding

def fit():
    X = numpy.random.default_rng(0).normal(size=(1000, 64))
    return SparseCoding(64, init="random", max_epochs=2, random_state=0).fit(X).elbo_, os.getpid()

if __name__ == "__main__":
    for word in sys.argv[1:]:
        way, _, n_threads = word.partition("-")
        torch.set_num_threads(int(n_threads))
        here = fit()
        if way == "loky":
            (there,) = joblib.Parallel(2, timeout=60)([joblib.delayed(fit)()])
        else:
            with multiprocessing.get_context(way).Pool(1) as pool:
                there = pool.apply_async(fit).get(60)
        assert there[1] != here[1] and abs(there[0] - here[0]) < 1e-3, (here, there)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.parametrize("ways", [["fork-1", "loky-2"], pytest.param(["spawn-2"], marks=pytest.mark.slow)])
def test_workers_compute_after_a_fit(tmp_path, ways):
    """As docs/robustness.md says that they should be started: a forked one hangs after two threads."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    command = [sys.executable, script, *ways]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_that_learns_silences_warnings():
    """`warnings.catch_warnings` changes the filters of all threads."""
    home = Path(entrosparse.__file__).parent
    rooms = ("learning", "inference", "estimators")
    sources = [path for room in rooms for path in (home / room).glob("*.py")]
    assert len(sources) > 20
    assert not [path.name for path in sources if "catch_warnings" in path.read_text("utf-8")]
