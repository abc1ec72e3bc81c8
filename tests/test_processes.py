"""Several processes learn the model that one learns, and end together."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import eager_command
import process_jobs
from commands import write_images
from entrosparse._launch import launched
from entrosparse.annealing import EntropyWeights
from entrosparse.app.cli import main
from entrosparse.app.runs import load_run
from entrosparse.learning import Checkpoints, train
from entrosparse.model import SparseCodingModel
from entrosparse.objectives import analytic_elbo, entropy_elbo, optimal_scales
from entrosparse.posteriors import Diagonal
from entrosparse.priors import Laplace
from entrosparse.processes import ALONE, Share
from entrosparse.statistics import Statistics

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
FIT = ["--n-components=6", "--patch-size=4", "--n-patches=600", "--batch-size=100"]
LIMIT = 120  # seconds
BOTH = """
import sys
from entrosparse.app.cli import main

then = sys.argv.index("then")
assert main(sys.argv[1:then]) == 0
sys.exit(main(sys.argv[then + 1 :]))
"""
RUNNING = []
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def launch(n, *arguments, options=(), **popen):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*LAUNCH, f"--nproc-per-node={n}", *options, *map(str, arguments)]
    popen = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    process = subprocess.Popen(command, env=environment, **popen)
    RUNNING.append(process)
    return process


def finish(process):
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_running():
    yield
    for process in RUNNING:
        if process.poll() is None:
            process.terminate()  # It ends those that it started.
            process.communicate(timeout=LIMIT)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    """What each of some processes found."""
    folder = tmp_path_factory.mktemp("processes")
    code, _, err = finish(launch(request.param, process_jobs.__file__, folder))
    assert code == 0, err
    found = [pickle.loads((folder / f"found-{rank}").read_bytes()) for rank in range(request.param)]
    return folder, found


def assert_close(found, expected, tolerance=1e-10):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_processes_learn_what_one_learns(together):
    _, found = together
    for name in process_jobs.WAYS:
        alone = process_jobs.learn(name)
        for process in found:
            assert_close(process[name], alone)
            assert all(map(np.array_equal, process[name], found[0][name])), name
    for name in process_jobs.STREAMS:
        alone = process_jobs.stream(name)
        for process in found:
            assert_close(process[name], alone)
    for process in found:
        for name in ("estimator", *process_jobs.STREAMS):
            assert all(map(np.array_equal, process[name], found[0][name])), name


def test_threads_of_the_group_end_before_python(together):
    """One that does not is ended by force when it wants to release a tensor, and takes the process along."""
    folder, found = together
    for rank in range(len(found)):
        assert "gloo" not in (folder / f"threads-{rank}").read_text()


def test_processes_stop_and_raise_together(together):
    folder, found = together
    if len(found) != 2:
        pytest.skip("only two processes are made to fail")
    first, last = found
    assert first["one fails"] == ("ProcessError", "process 1 of 2 failed: ValueError: no luck")
    assert last["one fails"] == ("ValueError", "no\nluck")
    assert first["one fails while all keep"] == ("ProcessError", "process 1 of 2 failed: ValueError: no luck")
    assert last["one fails while all keep"] == ("ValueError", "no luck")
    (ours, n_sums), (theirs, _) = (process["interrupted within a sum"] for process in found)
    assert n_sums == 3  # of two parts each, the last of which was interrupted
    assert ours == ("ProcessError", "process 1 of 2 failed: interrupted")
    assert theirs[0] == "KeyboardInterrupt"
    for process in found:
        kind, message = process["other data"]
        assert kind == "InputError"
        assert message.startswith("the 'data' must be the same in all processes")
        kind, message = process["other arguments"]
        assert kind == "InputError"
        assert "the 'epochs' must be the same" in message
        kind, message = process["other batches"]
        assert kind == "InputError"
        assert message.startswith("the 'X' must be the same in all processes")
        assert process["after both"] == 1
        assert process["kept before one leaves"] == 1
        assert process["alone"][0] == "InputError"
        assert "got Alone" in process["alone"][1]
        for name in ("online", "batch", "encoder"):
            assert process[f"{name}, stopped"][0] == "KeyboardInterrupt"
            gone_on, uninterrupted = process[f"{name}, gone on"], process[name]
            assert all(map(np.array_equal, gone_on, uninterrupted)), name
    assert first["bad data in one"][0] == "ProcessError"
    assert "process 1 of 2" in first["bad data in one"][1]
    assert last["bad data in one"][0] == "InputError"
    assert first["a bad batch in one"][0] == "ProcessError"
    assert last["a bad batch in one"][0] == "ValueError"
    for name in ("online", "batch", "encoder"):  # One process goes on with the checkpoints of two.
        learner, data, options = process_jobs.WAYS[name]
        settings = process_jobs.SETTINGS | options | {"checkpoints": Checkpoints(folder / name, 0.0)}
        assert_close(process_jobs.numbers(train(learner, data, **settings)), process_jobs.learn(name))


def test_the_command_learns_and_encodes_in_processes(tmp_path, capsys):
    images = write_images(tmp_path / "images")
    fit = ["-m", "entrosparse", "fit", images, *FIT, "--epochs=2", "--out", tmp_path / "two"]
    code, out, err = finish(launch(2, *fit))
    assert code == 0, err
    assert out.startswith("2 processes of 1 thread(s)\n")
    assert out.count("report.html") == 1
    assert main(["fit", str(images), *FIT, "--epochs=2", "--out", str(tmp_path / "one")]) == 0
    one, two = load_run(tmp_path / "one"), load_run(tmp_path / "two")
    torch.testing.assert_close(two.model.dictionary, one.model.dictionary, rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "two" / "checkpoints").exists()
    # The same processes find codes and then make a mistake, which is told once.
    encode = ["encode", str(tmp_path / "two"), str(images), "--out"]
    (tmp_path / "both.py").write_text(BOTH)
    code, _, err = finish(launch(2, tmp_path / "both.py", *encode, tmp_path / "two.npz", "then", *fit[2:]))
    assert code != 0
    assert err.count("entrosparse: error: the 'out' parameter must be a folder") == 1
    assert main([*encode, str(tmp_path / "one.npz")]) == 0
    with np.load(tmp_path / "one.npz") as first, np.load(tmp_path / "two.npz") as second:
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def slow_fit(tmp_path, *options):
    """Start a fit in processes that keep checkpoints all the time; return it once there is one."""
    images = write_images(tmp_path / "images")
    fit = ["fit", str(images), *FIT, "--batch-size=8", "--epochs=20"]
    assert main([*fit, "--out", str(tmp_path / "whole")]) == 0
    command = [eager_command.__file__, tmp_path / "started", *fit, "--out", tmp_path / "run"]
    process = launch(2, *command, options=options)
    until = time.monotonic() + LIMIT
    while not list((tmp_path / "run").glob("checkpoints/checkpoint-*")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_a_process_that_is_killed_is_started_again(tmp_path):
    process = slow_fit(tmp_path, "--max-restarts=3")
    first = (tmp_path / "started").read_text().split()
    os.kill(int(first[-1]), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert len(first) == 2
    assert len((tmp_path / "started").read_text().split()) >= 4
    whole, run = load_run(tmp_path / "whole"), load_run(tmp_path / "run")
    torch.testing.assert_close(run.model.dictionary, whole.model.dictionary, rtol=1e-3, atol=1e-3)
    assert [r.epoch for r in run.history] == list(range(21))


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [True, False])
def test_a_signal_to_end_keeps_a_checkpoint_of_all(to_all, tmp_path):
    process = slow_fit(tmp_path)
    if to_all:
        process.terminate()
    else:
        os.kill(int((tmp_path / "started").read_text().split()[-1]), signal.SIGTERM)
    code, _, err = finish(process)
    assert code != 0
    assert "to go on: entrosparse resume" in err  # None leaves before the first has said so.
    assert (tmp_path / "run" / "report.html").exists()
    assert main(["resume", str(tmp_path / "run")]) == 0
    whole, run = load_run(tmp_path / "whole"), load_run(tmp_path / "run")
    torch.testing.assert_close(run.model.dictionary, whole.model.dictionary, rtol=1e-3, atol=1e-3)


# --- what makes it exact


def test_gradients_of_shares_add_for_the_classical_elbo_alone():
    """Those of the sum of entropies, which is not linear in the sums, do not (Theorem 3)."""
    generator = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(8, 5, generator=generator, dtype=torch.float64), dim=0)
    x = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    weights = EntropyWeights(2.0, 0.5)

    def record(part, mean, log_scale):
        return Statistics.collect(Diagonal(mean[part], log_scale[part].exp()), x[part], W, Laplace())

    def gradient(objective, *parameters):
        return torch.cat([g.ravel() for g in torch.autograd.grad(objective, parameters)])

    mean, log_scale = (
        torch.randn(64, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    whole = record(slice(None), mean, log_scale)
    exact = gradient(entropy_elbo(whole, weights).objective, mean, log_scale)
    prior_scale, noise_variance = (each.detach() for each in optimal_scales(whole))
    model = SparseCodingModel(W, prior_scale, noise_variance)
    classical, naive = torch.zeros_like(exact), torch.zeros_like(exact)
    for part in (slice(0, 20), slice(20, 64)):
        share = record(part, mean, log_scale)
        size = float(share.total_weight) / 64
        classical += size * gradient(analytic_elbo(share, model, weights).objective, mean, log_scale)
        naive += size * gradient(
            entropy_elbo(record(part, mean, log_scale), weights).objective, mean, log_scale
        )
    torch.testing.assert_close(classical, exact, rtol=1e-12, atol=1e-14)
    assert (naive - exact).norm() > 1e-3 * exact.norm()


def test_shares_make_up_the_rows():
    class Third:
        size = 3

        def __init__(self, rank):
            self.rank = rank

        share = type(ALONE).share

    for n in (0, 1, 2, 7, 300):
        rows = np.arange(n)
        shares = [Share(rows, Third(rank)) for rank in range(3)]
        assert np.concatenate([share[0 : len(share)] for share in shares]).tolist() == rows.tolist()
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM") or name in (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
        ):
            monkeypatch.delenv(name)


STEP = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",  # of the login node, where srun is called there
    "SLURM_STEP_NODELIST": "gpu[03-05,9],gpu17",
}


def set_environment(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("no_launcher")
def test_slurm_and_torchrun_say_what_they_started(monkeypatch):
    assert launched() == {}
    set_environment(monkeypatch, STEP)
    found = launched()
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == ("5", "1", "8")
    assert found["MASTER_ADDR"] == "gpu03"
    assert 1024 < int(found["MASTER_PORT"]) < 32768
    monkeypatch.setenv("SLURM_STEP_ID", "1")  # Steps may run beside each other.
    assert launched()["MASTER_PORT"] != found["MASTER_PORT"]
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")  # The script of a job is one process, whatever its tasks.
    assert launched() == {}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == {}


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("vm", "vm"),
        ("a,b", "a"),
        ("n[001-064]", "n001"),
        ("rack[1,4]-node[2-3],login", "rack1-node2"),
        ("n[7]-ib", "n7-ib"),
    ],
)
def test_the_first_process_listens_on_the_first_node_of_the_step(nodes, first, monkeypatch):
    set_environment(monkeypatch, STEP | {"SLURM_STEP_NODELIST": nodes})
    assert launched()["MASTER_ADDR"] == first
