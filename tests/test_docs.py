import ast
import re
import sys
from types import ModuleType

import pytest
import torch

from documents import ROOT, blocks

BLOCKS = [
    ("README.md", 0, r"\(32, 64\) \S+ -\d+\.\d+ nats a sample\n"),
    ("docs/torch.md", 0, ""),
    *(("docs/extending.md", k, "") for k in range(4)),
    ("docs/scaling.md", 0, ""),
    ("docs/images.md", 0, r"(?s).*error 0\.0[1-6]\d of a deviation of 0\.\d{3}\n"),
    ("docs/entropy-sums.md", 0, r"(\S.+ \d\.\d{3} \d\.\d{3}\n){8}"),
    ("docs/entropy-sums.md", 1, ""),
    ("docs/entropy-sums.md", 2, ""),
    ("docs/entropy-sums.md", 3, r"(step .+ nats\n){3}"),
    ("docs/quickstart.md", 0, r"\(297, 32\) \(32, 64\)\n-\d+\.\d nats .+\n"),
    ("docs/guide/bound.md", 0, r"(.+\d.+\n){3}"),
    ("docs/guide/migrating.md", 0, r"\(24, 64\) \(24, 64\)\n\d+% .+ zero\n"),
    ("docs/guide/migrating.md", 1, r"least code: 0\.\d+\nthere: 1\d\.\d nats .+\nhere: 1\d\.\d nats .+\n"),
    ("docs/guide/missing.md", 0, r"-\d+\.\d nats .+\n"),
    ("docs/guide/streaming.md", 0, r"80 batches, .+ noise variance 0\.09\d\n"),
    ("docs/guide/uncertainty.md", 0, r"(torch\.Size\(.+?\) ?){4}\n"),
    ("docs/guide/units.md", 0, r".+ 0\.9\d+\n-\d+\.\d nats, .+\n"),
]


def test_no_block_is_left_out():
    documents = [
        path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
    ]
    found = {(document, k) for document in documents for k in range(len(blocks(document)))}
    assert found == {(document, k) for document, k, _ in BLOCKS}


@pytest.mark.parametrize(("document", "number", "output"), BLOCKS)
def test_the_python_of_the_documents_runs_as_it_stands(
    tmp_path, monkeypatch, capsys, document, number, output
):
    """In a namespace and a folder of its own; all that it warns of is an error."""
    monkeypatch.chdir(tmp_path)
    made = ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", made)  # Dataclasses and pickles look their classes up there.
    with torch.random.fork_rng():
        exec(compile(blocks(document)[number], f"{document}, block {number}", "exec"), made.__dict__)
    assert re.fullmatch(output, capsys.readouterr().out)


@pytest.mark.parametrize(("document", "number", "output"), BLOCKS)
def test_the_documents_import_only_public_names(document, number, output):
    for node in ast.walk(ast.parse(blocks(document)[number])):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert not [name for name in names if name.startswith("_")]


LINKING = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))]
ON_THE_WEB = re.compile(r"https://(github|raw\.githubusercontent)\.com/entrosparse/entrosparse/(blob/)?main/")


def links(document):
    """All addresses that a document links to or shows a picture from."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"^\[.+\]: (\S+)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("document", LINKING)
def test_links_to_files_hold(document):
    targets = [link.partition("#")[0] for link in links(document)]
    on_the_web = [ROOT / ON_THE_WEB.sub("", target) for target in targets if ON_THE_WEB.match(target)]
    beside = [(ROOT / document).parent / target for target in targets if not target.startswith("http")]
    assert not [path for path in on_the_web + beside if not path.exists()]


def test_the_readme_can_be_read_away_from_the_repository():
    """As on the page of the package, which shows no formulas either."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(link.startswith("https://") for link in links("README.md"))
    assert "$" not in text
    body = " ".join(re.sub(r"```.*?```|\n\[[^]]+\]: \S+", "", text, flags=re.DOTALL).split())
    used = set(re.findall(r"\[([^][]+)\](?=[^[(])", body))
    assert used == set(re.findall(r"^\[(.+)\]: https", text, flags=re.MULTILINE))


def test_make_verbs_in_the_documents_exist():
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / document).read_text(), flags=re.MULTILINE))
        assert named <= verbs
