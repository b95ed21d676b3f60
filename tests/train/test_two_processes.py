"""Two processes of four devices each train as one process of eight does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import steps_on_processes

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.mesh]

CHILD = Path(steps_on_processes.__file__)
ROOT = CHILD.parents[2]


def launch(file, devices, **env):
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(file)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices)} | env,
    )


def finish(*children):
    try:
        for child in children:
            _, errors = child.communicate(timeout=300)
            assert child.returncode == 0, errors
    finally:
        for child in children:
            child.kill()


def test_two_processes_train_like_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    steps_on_processes.main(tmp_path / "one.npz")
    children = [
        launch(
            tmp_path / "two.npz",
            4,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(rank),
        )
        for rank in range(2)
    ]
    finish(*children)
    one, two = np.load(tmp_path / "one.npz"), np.load(tmp_path / "two.npz")
    assert (one["processes"], two["processes"], one["devices"], two["devices"]) == (1, 2, 8, 8)
    assert one.files == two.files
    assert len(one.files) > 30
    for name in set(one.files) - {"processes", "devices"}:
        np.testing.assert_allclose(
            two[name], one[name], atol=1e-5 * np.abs(one[name]).max(), rtol=0, err_msg=name
        )
