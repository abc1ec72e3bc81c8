"""What `fit` takes where nothing is asked for: for rows, what the estimator takes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from commands import failure
from entrosparse import SparseCoding, load_run
from entrosparse.app.cli import main
from entrosparse.app.commands import fitting
from entrosparse.app.config import FitConfig
from entrosparse.app.sources import split_rows
from entrosparse.learning import BatchEM

RNG = np.random.default_rng(0)
TABLE = RNG.laplace(size=(300, 3)) @ RNG.normal(size=(3, 5)) + 0.2 * RNG.normal(size=(300, 5)) + 7.0


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.npy"
    np.save(path, TABLE)
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """The folder of a run of which nothing was asked for, which tests must leave as it is."""
    out = tmp_path_factory.mktemp("rows") / "run"
    assert main(["fit", str(table), "--rows", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("n_features", [7, 300])
@pytest.mark.parametrize("n_rows", [100, 10_000, 10_001, 30_000, 10**6])
@pytest.mark.parametrize(
    "settings", [{}, {"annealing": "prior"}, {"inference": "encoder"}, {"batch_size": 64}], ids=str
)
def test_rows_are_learned_as_the_estimator_does(settings, n_rows, n_features):
    config = FitConfig(rows=True, **settings)
    config.validate()
    chosen = config.for_data(n_rows, n_features)
    coding = SparseCoding(**settings)
    coding.n_features_in_ = n_features
    learner = coding._learner(n_rows)
    assert (chosen.algorithm == "batch") == isinstance(learner, BatchEM)
    if chosen.algorithm == "batch":
        assert chosen.learner == replace(learner, iterations=chosen.passes)
    assert chosen.n_components == coding._n_components
    assert chosen.epochs * chosen.passes == coding._epochs(learner, n_rows)
    assert chosen.for_data(n_rows, n_features) == chosen


def test_what_is_asked_for_is_taken():
    config = FitConfig(rows=True, algorithm="online", n_components=3, epochs=4)
    assert config.for_data(100, 5) == config
    images = FitConfig().for_data(200_000, 256)
    assert (images.algorithm, images.n_components, images.epochs) == ("online", 100, 10)


def test_a_small_table_is_learned_until_it_has_converged(run, table, tmp_path, capsys, monkeypatch):
    found = load_run(run)
    assert (found.info.converged, found.info.config.algorithm) == (True, "batch")
    assert found.model.dictionary.shape == (5, 5)
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert f"{found.history[-1].epoch}, converged" in text
    assert f"{270 * 10 * found.history[-1].epoch:,}" in text

    train, heldout = split_rows(str(table))
    coding = SparseCoding(random_state=0).fit(train[:])
    assert abs(found.history[-1].elbo - coding.score(heldout)) < 0.3
    of_run = SparseCoding.from_run(run)
    assert (of_run.algorithm, of_run.max_epochs, of_run.converged_) == ("batch", 2000, True)

    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "report.html").unlink()
    monkeypatch.setattr(fitting, "_learn", None)
    assert main(["resume", str(copy)]) == 0
    assert (copy / "report.html").exists()


def test_runs_from_before_there_was_a_choice_learned_from_minibatches(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    del config["config"]["algorithm"]
    (copy / "config.json").write_text(json.dumps(config))
    assert load_run(copy).info.config.algorithm == "online"


def test_a_start_gives_the_number_of_fields(table, run, tmp_path):
    begun = ["fit", str(table), "--rows", "--algorithm=online", "--epochs=1", "--out"]
    assert main([*begun, str(tmp_path / "a"), "--n-components=3"]) == 0
    assert main([*begun, str(tmp_path / "b"), "--start-from", str(tmp_path / "a")]) == 0
    assert load_run(tmp_path / "b").info.config.n_components == 3


@pytest.mark.parametrize("name", ["n_components", "epochs"])
def test_a_run_says_what_was_chosen(run, tmp_path, capsys, name):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["config"][name] = None
    (copy / "config.json").write_text(json.dumps(config))
    assert "'n_components' and 'epochs' must be numbers" in failure(capsys, "info", copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "--algorithm=fast"], "'algorithm' parameter must be one of 'auto', 'batch', 'online'"),
        (["--algorithm=fast"], "'algorithm' parameter must be one of 'auto', 'batch', 'online'; got 'fast'"),
        (
            ["--rows", "--algorithm=batch", "--inference=encoder"],
            "must be 'auto' or 'online' with an encoder",
        ),
        (["--algorithm=batch"], "must be 'auto' or 'online' for images; got 'batch'"),
    ],
)
def test_an_algorithm_that_is_none_is_refused(table, tmp_path, capsys, arguments, message):
    assert message in failure(capsys, "fit", table, *arguments, "--out", tmp_path / "out")
