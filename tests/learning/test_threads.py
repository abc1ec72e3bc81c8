import pytest
import torch

from conftest import make_model
from entrosparse.learning import Callback, OnlineEM, train
from entrosparse.learning._threads import as_many_threads_as_help


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


def test_learning_small_models_uses_one_thread(two_threads, generator):
    seen = set()

    class Watcher(Callback):
        def on_batch(self, samples_seen):
            seen.add(torch.get_num_threads())

    data = make_model(6, 3, generator, torch.float32).sample(200, generator)[0].numpy()
    train(OnlineEM(), data, data[:20], n_components=3, epochs=1, batch_size=50, callbacks=(Watcher(),))
    assert seen == {1}
    assert torch.get_num_threads() == 2
