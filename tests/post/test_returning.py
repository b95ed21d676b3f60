"""Sources of post-training in a run that returns to an earlier checkpoint (train/guard.py)."""

from types import SimpleNamespace

from seekjax.post.distill.distillation import TaughtSource
from seekjax.post.rl.updates import RolloutUpdates
from tests.train.quadratic import Batches


class Updates(RolloutUpdates):
    """Updates whose rollouts are the steps that they were drawn in."""

    def __init__(self):
        self.queue = []
        self.next_step = 0

    def collect(self, step, state):
        return [(step, number) for number in range(3)]


def test_what_is_left_of_a_rollout_is_dropped():
    """It is of a policy that the run does not have any more."""
    updates = Updates()
    assert [updates.batch(step, None) for step in (0, 1)] == [(0, 0), (0, 1)]
    assert [updates.batch(step, None) for step in (0, 1, 2)] == [(0, 0), (0, 1), (0, 2)]
    assert updates.batch(3, None) == (3, 0)


def test_saved_targets_are_those_of_the_batch_not_of_the_step():
    """After a return the data go on, so that a step has another batch than before."""
    names = []

    def targets(batch, name):
        names.append(name)
        return {}

    targets.teacher = SimpleNamespace(fingerprint="t", check_resumed=lambda fingerprint: None)
    source = TaughtSource(Batches(), targets)
    for step in (0, 1, 0):
        source.batch(step, None)
    assert names == ["train-000000", "train-000001", "train-000002"]

    # The position has the number; that of earlier versions does not, and the number was the step.
    resumed = TaughtSource(Batches(), targets)
    position = source.get_state()
    resumed.set_state(position)
    resumed.batch(1, None)
    del position["number"]
    resumed.set_state(position)
    resumed.batch(7, None)
    assert names[3:] == ["train-000003", "train-000007"]
