import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("document", "output"),
    [("README.md", r"\(32, 64\) \S+ -\d+\.\d+ nats a sample\n"), ("docs/torch.md", "")],
)
def test_the_python_of_the_documents_runs_as_it_stands(tmp_path, document, output):
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env=os.environ
        | {"OMP_NUM_THREADS": "1"},  # threads that wait for each other on a busy machine take minutes
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(output, result.stdout)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_hold(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_make_verbs_in_the_documents_exist():
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / document).read_text(), flags=re.MULTILINE))
        assert named <= verbs
