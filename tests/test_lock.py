"""One process at a time writes into a folder, whatever the file system offers."""

import errno
import json
import os
import platform
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest

from seekjax import lock
from seekjax.errors import RunError
from seekjax.lock import NAME, only_owner


def test_a_second_owner_is_refused_with_the_first(tmp_path):
    with only_owner(tmp_path):
        who = rf"process {os.getpid()} on {platform.node()}, started \d{{4}}-.* writes into "
        with pytest.raises(RunError, match=who + re.escape(str(tmp_path))), only_owner(tmp_path):
            pass
    with only_owner(tmp_path):
        pass


def test_a_killed_owner_holds_nothing(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from seekjax.lock import only_owner\n"
        "with only_owner(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path])
    assert killed.returncode == -9
    assert json.loads((tmp_path / NAME).read_text())["machine"] == platform.node()
    with only_owner(tmp_path):
        pass


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("owner", "age", "held"),
    [
        ({"machine": platform.node(), "process": os.getppid()}, 0, True),
        ({"machine": platform.node(), "process": 2**22 + 1}, 0, False),
        ({"machine": "elsewhere", "process": 7}, 1, True),
        ({"machine": "elsewhere", "process": 7}, 2 * lock.ABANDONED, False),
        ({}, 0, False),
    ],
)
def test_without_locks_the_file_says_who_is_alive(tmp_path, monkeypatch, owner, age, held):
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    file = tmp_path / NAME
    file.write_text(json.dumps(owner and owner | {"started": "2026-01-01"}))
    os.utime(file, (file.stat().st_mtime - age,) * 2)
    with ExitStack() as stack:
        if held:
            stack.enter_context(pytest.raises(RunError, match=r"writes into .* now: wait until"))
        stack.enter_context(only_owner(tmp_path))


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    message = r"cannot be written .*: name another with --out"
    with pytest.raises(RunError, match=message), only_owner(tmp_path / "nowhere"):
        pass
