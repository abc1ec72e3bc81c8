"""The folder that `entrosparse reproduce` leaves, whatever happens on the way."""

import errno
import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import entrosparse.reproduce.framework.running as running
from entrosparse.app import plots
from entrosparse.app.cli import main
from entrosparse.errors import FileFormatError, InputError
from entrosparse.reproduce import EXPERIMENTS, EXPLORATIONS
from entrosparse.reproduce.framework import Claim, Config, Experiment, Picture, Result, Table
from entrosparse.reproduce.framework.results import load_results
from entrosparse.reproduce.framework.running import reproduce

TABLES = {"reproduce": EXPERIMENTS, "explore": EXPLORATIONS}


@dataclass(frozen=True)
class ToyConfig(Config):
    answer: int = 42
    several: tuple[int, ...] = (1, 2)


class Toys:
    """Stand-ins for the experiments: they count how often they run, and fail when told to."""

    def __init__(self):
        self.runs = []
        self.failures = {}
        self.source = "Fig. 0"

    def __call__(self, name):
        def run(config):
            self.runs.append(name)
            if name in self.failures:
                raise self.failures[name]
            figure = plots.draw_fields(np.eye(4), np.ones(4), (2, 2))
            return Result(
                data="toy data",
                claims=(Claim("the answer is 42", str(config.answer), config.answer == 42, paper="42"),),
                pictures=(
                    Picture("one", "A caption.", (figure,)),
                    Picture("two", "Frames.", (figure, figure), ("epoch 0", "epoch 1")),
                ),
                tables=(Table("answers", "All of them.", ("who", "what"), (("toy", str(config.answer)),)),),
                numbers={"answer": config.answer, "arrays": {"a": [1.0, 2.0]}},
            )

        configs = {"smoke": ToyConfig(), "small": ToyConfig(answer=43)}
        return Experiment(f"Toy {name}", configs, run, self.source)


@pytest.fixture
def toys(monkeypatch):
    toys = Toys()
    monkeypatch.setattr(running, "get_experiment", toys)
    return toys


def failure(capsys, *arguments, code=2):
    """Run a command that must fail, and return the one line that it says."""
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("entrosparse: error: ")
    return captured.err


def test_a_result_reads_back_as_it_was_found(toys, tmp_path):
    told = []
    reproduce(["erf"], tmp_path / "out", "smoke", {"answer": 7, "of nothing": 1}, report=told.append)
    (result,) = load_results(tmp_path / "out")
    assert told == [result]
    assert (result.name, result.title, result.source, result.scale) == ("erf", "Toy erf", "Fig. 0", "smoke")
    assert result.config == {"seed": 0, "images": None, "answer": 7, "several": [1, 2]}
    assert result.claims == (Claim("the answer is 42", "7", False, paper="42"),)
    assert result.tables == (Table("answers", "All of them.", ("who", "what"), (("toy", "7"),)),)
    assert [picture.files for picture in result.pictures] == [("one",), ("two-00", "two-01")]
    assert result.numbers == {"answer": 7, "arrays": {"a": [1.0, 2.0]}}
    assert {"entrosparse", "torch", "numpy"} == set(result.versions)
    names = {path.name for path in (tmp_path / "out" / "erf").iterdir()}
    assert names == {"result.json", "report.html"} | {
        f"{stem}.{suffix}" for stem in ("one", "two-00", "two-01") for suffix in ("png", "svg")
    }


def test_all_libraries_use_one_thread_while_an_experiment_runs(toys, tmp_path, monkeypatch):
    def threads():
        return {library["num_threads"] for library in threadpool_info()}

    found = []
    monkeypatch.setattr(toys, "runs", SimpleNamespace(append=lambda name: found.append(threads())))
    with threadpool_limits(2):
        assert 2 in threads()
        reproduce(["erf"], tmp_path / "out", "smoke", {})
        assert 2 in threads()
    assert found == [{1}]


def test_the_page_of_all_holds_every_verdict(toys, tmp_path):
    reproduce(["bars", "erf"], tmp_path / "out", "small", {})
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('id="bars"') == page.count('id="erf"') == 1
    assert page.count('class="fails"') == 4  # once in the index and once in its section
    assert 'class="holds"' not in page
    one = (tmp_path / "out" / "erf" / "report.html").read_text(encoding="utf-8")
    assert 'id="erf"' in one
    assert 'id="bars"' not in one


def test_resume_runs_what_is_missing(toys, tmp_path):
    toys.failures = {"erf": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        reproduce(["bars", "erf", "l1"], tmp_path / "out", "smoke", {})
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["bars"]
    assert 'id="bars"' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    toys.failures = {}
    reproduce(["bars", "erf", "l1"], tmp_path / "out", "smoke", {}, resume=True)
    assert toys.runs == ["bars", "erf", "erf", "l1"]
    assert [result.name for result in load_results(tmp_path / "out")] == ["bars", "erf", "l1"]


def test_resume_refuses_results_of_other_settings(toys, tmp_path):
    reproduce(["bars"], tmp_path / "out", "smoke", {})
    with pytest.raises(InputError, match="same settings"):
        reproduce(["bars", "erf"], tmp_path / "out", "small", {}, resume=True)
    with pytest.raises(InputError, match="same settings"):
        reproduce(["bars", "erf"], tmp_path / "out", "smoke", {"answer": 1}, resume=True)
    assert toys.runs == ["bars"]


def test_a_folder_that_exists_is_not_touched(toys, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    message = failure(capsys, "reproduce", "erf", "--out", tmp_path, "--scale", "smoke")
    assert "does not exist yet" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert toys.runs == []


def test_a_full_disk_leaves_no_half_result(toys, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    reproduce(["bars"], out, "smoke", {})
    before = (out / "report.html").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(out / "erf"))

    monkeypatch.setattr(running, "write_page", full)
    assert "No space left" in failure(
        capsys, "reproduce", "erf", "--out", out, "--scale", "smoke", "--resume"
    )
    assert sorted(path.name for path in out.iterdir()) == ["bars", "report.html"]
    assert (out / "report.html").read_bytes() == before


def test_ctrl_c_says_how_to_go_on(toys, tmp_path, capsys):
    toys.failures = {"erf": KeyboardInterrupt()}
    arguments = ("reproduce", "erf", "--out", tmp_path / "out", "--scale", "smoke")
    assert "--resume" in failure(capsys, *arguments, code=130)


def test_a_damaged_result_is_named(toys, tmp_path):
    reproduce(["erf"], tmp_path / "out", "smoke", {})
    (tmp_path / "out" / "erf" / "result.json").write_text("{")
    with pytest.raises(FileFormatError, match="erf"):
        reproduce(["erf", "l1"], tmp_path / "out", "smoke", {}, resume=True)
    (tmp_path / "out" / "erf" / "result.json").write_text('{"format": 99}')
    with pytest.raises(FileFormatError, match="format 1; got 99"):
        load_results(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], "one of bars, "),
        (["erf", "--scale", "huge"], "one of smoke, small, paper; got 'huge'"),
        (["all", "--images", "no/IMAGES.mat"], "must be an existing file or folder; got '"),
        (["all", "--images", __file__], "test_running.py"),
        (["external-dictionary", "--dictionary", "no.npy"], "no.npy"),
        (["external-dictionary", "--dictionary", __file__], "test_running.py"),
    ],
)
def test_wrong_arguments_are_one_line_before_any_work(tmp_path, capsys, arguments, expected):
    out = tmp_path / "out"
    assert expected in failure(capsys, "reproduce", *arguments, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(("command", "table"), TABLES.items())
def test_list_names_all(capsys, command, table):
    assert main([command, "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(table)


def test_each_command_knows_its_own_names(tmp_path, capsys):
    assert not EXPERIMENTS.keys() & EXPLORATIONS.keys()
    for command, name in (("reproduce", next(iter(EXPLORATIONS))), ("explore", next(iter(EXPERIMENTS)))):
        known = ", ".join(TABLES[command])
        message = failure(capsys, command, name, "--out", tmp_path / "out")
        assert f"one of {known}, all or list; got '{name}'" in message
    assert "one of smoke, small, large; got 'paper'" in failure(
        capsys, "explore", "all", "--scale", "paper", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_only_the_paper_is_said_to_say_something(toys, tmp_path):
    """Also on one page with what goes beyond it."""
    toys.source = ""
    reproduce(["robustness"], tmp_path / "out", "smoke", {})
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<title>entrosparse: beyond the paper</title>" in page
    assert "<th>expected</th><th>here</th>" in page
    assert "the paper says" not in page
    assert "of the paper." not in page
    toys.source = "Fig. 0"
    reproduce(["erf"], tmp_path / "out", "smoke", {}, resume=True)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<title>entrosparse: figures and tables of the paper</title>" in page
    of_paper, beyond = page.index("<th>the paper says</th><th>paper</th>"), page.index("<th>expected</th>")
    assert of_paper < page.index('<a href="#erf">') < beyond < page.index('<a href="#robustness">')
    assert page.count("Fig. 0 of the paper.") == 1


def test_seconds_count_runs_that_were_made_before(tmp_path):
    """Whichever experiment made them first: a result's seconds are the cost of all that it shows."""
    tiny = {"n_patches": 64, "n_paper_patches": 64, "n_judged": 32, "n_heldout": 8, "n_components": 4}
    for folder in ("first", "second"):
        reproduce(["sparsity"], tmp_path / folder, "smoke", tiny)
    (first,), (second,) = (load_results(tmp_path / folder) for folder in ("first", "second"))
    assert second.numbers == first.numbers  # taken, not made again
    shown = sum(run["seconds"] for runs in second.numbers.values() for run in runs.values())
    assert second.seconds >= shown > 0


LONG = (
    "annealing-fields",  # test_browser.py makes it at a smaller size
    "bars",
    "optimization",
    "annealing",
    "overcomplete",
    "stochastic",
    "theorems",
    "comparison",
    "robustness",
)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        pytest.param(command, name, marks=[pytest.mark.slow] * (name in LONG))
        for command, table in TABLES.items()
        for name in table
    ],
)
def test_every_experiment_runs_at_smoke_scale(command, name, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([command, name, "--scale", "smoke", "--out", str(out)]) == 0
    (result,) = load_results(out)
    assert result.claims
    assert result.pictures
    assert result.data
    json.dumps(result.numbers, allow_nan=False)
    for picture in result.pictures:
        assert picture.caption.endswith(".")
        assert len(picture.labels) == len(picture.files)
    assert "claims hold" in capsys.readouterr().out
