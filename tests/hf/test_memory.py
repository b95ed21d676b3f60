"""Loading holds the weights and a few of the largest tensors, however large the checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.slow]


def test_high_water_mark_of_loading(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "load_memory.py"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "sparse")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    # One matrix of every expert of a layer, the unit in which stacks are filled.
    layer = 2 * 32 * 1024 * 704
    assert measured["held"] > 0.6e9
    assert measured["held"] > 0.99 * measured["total"]
    assert measured["beyond"] < 5 * max(measured["largest"], layer) + 40e6, measured
