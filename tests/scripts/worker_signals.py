"""A data worker through every signal that a terminal or a scheduler sends to the whole group.

Prints what the worker answers afterwards, and which signals the parent got.
python tests/scripts/worker_signals.py, in a process group of its own
"""

import importlib.util
import multiprocessing
import os
import signal
from pathlib import Path

FILE = Path(__file__).parents[2] / "seekjax" / "data" / "worker.py"

# By its file: the package around it takes a second to import, twice.
spec = importlib.util.spec_from_file_location("worker", FILE)
assert spec is not None
assert spec.loader is not None
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)


def work(pipe):
    """Begin as Grain's workers do, and answer once."""
    worker.begin_worker(0, 1)
    pipe.send("ready")
    pipe.send(pipe.recv() + 1)


def send_all():
    for number in worker.SIGNALS:
        os.killpg(0, number)


def main():
    received = set()
    for number in worker.SIGNALS:
        signal.signal(number, lambda number, frame: received.add(signal.Signals(number).name))

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there,), daemon=True)
    with worker.signals_held_back():
        process.start()

    # While it starts and does not ignore them yet, and in the middle of its work.
    send_all()
    assert here.poll(20), "the worker did not begin"
    assert here.recv() == "ready"
    send_all()

    here.send(41)
    print(here.recv(), *sorted(received))
    process.join()


if __name__ == "__main__":
    main()
