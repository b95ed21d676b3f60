"""A data worker leaves signals to its parent."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "worker_signals.py"


def test_signals_to_the_whole_group_end_no_worker():
    """The parent gets them all, and the worker goes on: it has the batch that ends the step."""
    ended = subprocess.run(
        [sys.executable, SCRIPT], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert ended.stdout.split() == ["42", "SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1"], ended.stderr
    assert ended.returncode == 0
