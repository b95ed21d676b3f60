"""A save that fails is reported at once and does not end the run; the rhythm follows the cost."""

from types import SimpleNamespace

import pytest

from seekjax.config import Config, TrainConfig
from seekjax.errors import CheckpointError
from seekjax.train import saving as saving_module
from seekjax.train.clock import Clock, Spent
from seekjax.train.saving import Saving


class Disk:
    """Checkpoints whose saves fail while `full`, at once or in the background."""

    def __init__(self):
        self.full = self.behind = False
        self.saved, self.is_saving, self.cost = [], False, 0.0

    def save(self, step, state, *, data, config, files):
        now[0] += self.cost
        if self.full and not self.behind:
            raise CheckpointError(f"step {step} could not be saved: the disk is full")
        self.saved.append(step)

    def wait(self):
        if self.full and self.behind:
            self.behind = self.full = False
            raise CheckpointError("step 1 could not be saved: the disk is full")


now = [0.0]


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(saving_module.time, "perf_counter", lambda: now[0])

    def make(every):
        said, disk = [], Disk()
        config = Config(train=TrainConfig(save_every=every))
        spec = SimpleNamespace(saved=lambda state: state, files_of_step=dict)
        return Saving(config, disk, Clock(Spent(), 0.0), said.append, spec), disk, said

    return make


def state(step):
    return SimpleNamespace(step=step)


def test_a_save_that_fails_is_said_and_the_next_is_tried(made):
    saving, disk, said = made(2)
    saving.schedule(1, requested=False)
    assert not saving.due
    saving.schedule(2, requested=False)
    assert saving.due

    disk.full = True
    assert not saving.save(state(2), position={})
    assert not saving.due
    assert said == [
        "*** step 2 could not be saved: the disk is full; training goes on, and the next save is "
        "tried"
    ]
    with pytest.raises(CheckpointError):
        saving.finish(state(3), position={})
    disk.full = False
    assert saving.save(state(4), position={})
    assert disk.saved == [4]


def test_a_failure_in_the_background_is_said_as_soon_as_it_is_there(made):
    saving, disk, said = made(2)
    disk.full = disk.behind = disk.is_saving = True
    saving.report_failure()
    assert not said
    disk.is_saving = False
    saving.report_failure()
    assert len(said) == 1


def test_a_request_saves_at_any_step(made):
    saving, _, _ = made(100)
    saving.schedule(1, requested=True)
    assert saving.due


@pytest.mark.parametrize(("cost", "share"), [(0.4, 0), (2.0, 17)])
def test_a_fixed_rhythm_that_costs_much_is_said_once(made, cost, share):
    saving, disk, said = made(10)
    disk.cost = cost
    for step in range(10, 400, 10):
        now[0] += 10.0
        saving.save(state(step), position={})
    words = f"saving every 10 steps takes {share}% of the time: a larger train.save_every takes"
    assert [line.startswith(words) for line in said] == [True] * bool(share)


@pytest.mark.parametrize("cost", [0.01, 30.0])
def test_a_chosen_rhythm_costs_less_than_a_twentieth(made, cost):
    saving, disk, _ = made(0)
    disk.cost, begin, spent = cost, now[0], 0.0
    for step in range(1, 4000):
        now[0] += 1.0
        saving.schedule(step, requested=saving.is_time())
        if saving.due:
            saving.save(state(step), position={})
            spent += cost
    assert len(disk.saved) >= 5
    assert spent / (now[0] - begin) < 0.05
    assert min(b - a for a, b in zip(disk.saved, disk.saved[1:])) >= 60
