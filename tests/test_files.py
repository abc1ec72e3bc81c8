import os
import re
import stat
from pathlib import Path

import pytest

from entrosparse._files import open_regular, read_ours, write_atomically
from entrosparse.errors import FileFormatError

SOURCE = Path(__file__).parents[1] / "src" / "entrosparse"


def test_new_content_replaces_the_old(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_content_stays_while_the_new_is_written(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def writer(file):
        file.write(b"new")
        assert path.read_text() == "old"

    write_atomically(path, writer)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def writer(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, writer)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "a", lambda file: file.write(b""))
    (tmp_path / "b").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "a", lambda file: None)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a pipe"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / ("b" if "link" in kind else "a"))
        if "link" in kind:
            path.symlink_to(tmp_path / "b")
    with pytest.raises(FileFormatError, match="must be a regular file"):
        open_regular(path)


def test_links_are_followed_for_inputs_and_not_in_our_own_folders(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"12345"
    assert read_ours(tmp_path / "a", 5) == b"12345"
    with pytest.raises(FileFormatError, match="not a link"):
        read_ours(tmp_path / "link", 5)
    with pytest.raises(FileFormatError, match="at most 4 bytes; it has 5"):
        read_ours(tmp_path / "a", 4)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "a", lambda file: file.write(b""))
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize(
    "module",
    [path for path in SOURCE.glob("**/*.py") if path.name != "_files.py"],
    ids=lambda path: path.stem,
)
def test_every_reader_goes_through_the_one_that_checks(module):
    """So that no new reader follows a link, waits for a pipe or unpacks what a file claims."""
    text = module.read_text(encoding="utf-8")
    assert not re.search(r"read_text\(|read_bytes\(|np\.load\(|[^.\w]open\(|path\.open\(|np\.fromfile", text)


def test_nothing_that_belongs_to_the_process_is_changed_but_by_the_command():
    """Descriptors, filters of warnings and signals are shared with all threads of the caller."""
    changes = re.compile(r"dup2?\(|catch_warnings|filterwarnings|simplefilter|signal\.signal")
    found = {path.name for path in SOURCE.glob("**/*.py") if changes.search(path.read_text("utf-8"))}
    assert found == {"cli.py", "interruption.py", "quiet_fits.py"}  # Fits of scikit-learn warn too much.
