"""Processes that take turns, so that a busy machine slows all sides of a comparison equally.

A side is a process that answers one line of JSON when it is ready, and one for each line it reads.
It sleeps while another side runs.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAUSE = 0.3  # seconds: idle threads of the side before stop spinning


class Side:
    """A process that runs a case when it is given one.

    command: an interpreter and its arguments, such as [python, "-m", "tests.benchmarks.decode"].
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ):
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | dict(environment or {}),
        )

    def answer(self) -> Any:
        """Wait for the next line of the process, and return its JSON."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process ended; its message is above.")
        return json.loads(line)

    def run(self, case: str = "step") -> Any:
        """Run one case, and return the answer."""
        print(case, file=self.process.stdin, flush=True)
        answer = self.answer()
        time.sleep(PAUSE)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def serve(run: Callable[[str], Any], ready: Any) -> None:
    """Be a side: answer that it is ready, then every line of input."""
    import sys

    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(line.strip())), flush=True)
