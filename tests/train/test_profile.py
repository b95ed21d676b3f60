"""`--profile N`: a trace in the run folder, and tables of where the time went."""

import re
import time

import jax
import jax.numpy as jnp
import pytest

from seekjax.checkpoint.config_json import to_json
from seekjax.config import Config
from seekjax.errors import ConfigError
from seekjax.train.clock import Clock, Spent
from seekjax.train.profile import WARM, operations, profiling


@jax.jit
def product(x_DD, w_DD):
    return jnp.tanh(x_DD @ w_DD), {}


def run(steps: int, taken: int, folder) -> list[str]:
    """Take steps as the loop does, and return what was said."""
    said: list[str] = []
    clock = Clock(Spent(), began=time.perf_counter())
    x_DD = jnp.ones((64, 64))
    with profiling(Config(profile=steps), folder, clock, said.append) as profile:
        step = profile.around(product)  # pyright: ignore
        for _ in range(taken):
            with clock.at("data"):
                time.sleep(0.002)
            with clock.at("step"):
                step(x_DD, x_DD)
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> tuple[list[str], list]:
    folder = tmp_path_factory.mktemp("run")
    lines = run(2, WARM + 4, folder)
    return lines, list((folder / "profile").rglob("*.xplane.pb"))


def test_the_trace_is_in_the_run_folder_and_named(said):
    lines, [file] = said
    assert lines[0] == f"profile of 2 steps: {file.parent}"


def test_the_places_add_up(said):
    rows = {}
    for line in said[0][2:8]:
        name, figure, *_ = re.split(r" {2,}", line.strip())
        rows[name] = figure
    assert list(rows) == [*("place", "data", "step on the device", "report", "evaluation", "save")]
    assert float(rows["data"]) >= 2.0
    assert float(rows["step on the device"]) > 0
    assert float(rows["save"]) == 0


def test_operations_of_the_steps_are_listed(said):
    lines, [file] = said
    assert dict(operations(file))
    assert any(line.split()[:1] == ["operation"] for line in lines)


def test_the_end_says_where_all_of_the_start_went(said):
    rows = [line.split()[0] for line in said[0][-8:]]
    assert rows == ["start,", "data", "step", "report", "evaluation", "save", "profiler", "rest"]


@pytest.mark.parametrize("taken", [1, WARM])
def test_too_few_steps_are_a_sentence(taken, tmp_path):
    lines = run(2, taken, tmp_path)
    assert lines[0] == f"no profile: this start took {taken} steps, and it begins after {WARM}"


def fail(folder, said) -> None:
    clock = Clock(Spent(), began=time.perf_counter())
    with profiling(Config(profile=9), folder, clock, said.append) as profile:
        step = profile.around(product)  # pyright: ignore
        for _ in range(WARM + 1):
            step(jnp.ones((8, 8)), jnp.ones((8, 8)))
        raise ConfigError("a failure")


def test_a_failure_ends_the_trace(tmp_path):
    said: list[str] = []
    for _ in range(2):  # a trace that went on would refuse the second
        with pytest.raises(ConfigError):
            fail(tmp_path, said)
    assert said == []


def test_without_it_the_step_is_the_same(tmp_path):
    clock = Clock(Spent(), began=0.0)
    with profiling(Config(), tmp_path, clock, print) as profile:
        assert profile.around(product) is product  # pyright: ignore
    assert "profile" not in to_json(Config(profile=3))
