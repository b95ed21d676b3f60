"""Kill a process that saves in a loop, at random moments, and let its successor restore by itself:
`kill_during_save.py FOLDER KILLS`.

The parent imports jax but starts no backend, so a child costs a fork. Prints one line of JSON when
all went well.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np

from seekjax.checkpoint.manifest import damage
from seekjax.checkpoint.write import Checkpoints


def state_at(step):
    """Every array of the state tells its step. They are made without a compiler."""
    key = jax.random.wrap_key_data(np.array((0, step), np.uint32))
    params = {f"w{n}": np.full((64, 64), step, np.float32) for n in range(4)}
    return jax.device_put({"step": np.int32(step), "params": params, "key": key})


def on_host(state):
    """The arrays of a state, and those of its key."""
    return jax.device_get(state | {"key": jax.random.key_data(state["key"])})


def child(folder, pipe):
    """Restore, check, report; then save step after step until killed."""

    def report(*words):
        os.write(pipe, (json.dumps(words) + "\n").encode())

    checkpoints = Checkpoints(folder, keep=2)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0)
    )
    step, state, data = checkpoints.restore(abstract) or (0, state_at(0), {"position": 0})
    found, expected = (jax.tree.leaves(on_host(x)) for x in (state, state_at(step)))
    for have, want in zip(found, expected, strict=True):
        assert have.dtype == want.dtype, f"step {step} holds arrays of another type"
        assert (have == want).all(), f"step {step} holds another step's arrays"
    assert data == {"position": step}, f"step {step} holds another step's data position {data}"
    report("restored", step)
    while True:
        step += 1
        report("saving", step)
        checkpoints.save(step, state_at(step), data={"position": step}, config={})
        report("saved", step - 1)  # the save before has ended


def trial(folder, saves, delay):
    """One child, killed `delay` seconds after it began its n-th save, n = `saves`; its reports."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            child(folder, writing)
        except BaseException as error:
            os.write(
                writing,
                (json.dumps(["failed", f"{type(error).__name__}: {error}"]) + "\n").encode(),
            )
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        lines = []
        while saves and (line := pipe.readline()):
            lines.append(line)
            saves -= "saving" in line
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        lines += pipe.readlines()
    os.waitpid(pid, 0)
    return [json.loads(line) for line in lines]


def main(folder, kills):
    warnings.filterwarnings("ignore", message=".*fork.*")
    safe, interrupted, restored = 0, 0, []
    for n in range(
        kills
        # a child in its third save has finished its first: every third trial goes on by a step at
        # least
    ):
        for word, value in trial(folder, saves=1 + n % 3, delay=random.uniform(0, 0.15)):
            assert word != "failed", value
            if word == "restored":
                assert value >= safe, f"step {safe} was saved, but step {value} was restored"
                restored.append(value)
            if word == "saved":
                safe = max(safe, value)
        names = set()
        for path in (folder / "checkpoints").glob(
            "*"
        ):  # no folder yet when the first kill came before the first save
            names.add(path.name.partition("-")[0])
            assert not path.name.isdecimal() or damage(path) is None, (
                f"a kill left step {path.name} neither whole nor absent"
            )
        interrupted += bool(names & {"saving", "deleted"})
    print(json.dumps({"kills": kills, "interrupted": interrupted, "restored": restored}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
