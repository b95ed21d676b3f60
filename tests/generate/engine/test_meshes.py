"""On a mesh the engine's answers are those of one device: rows, experts, heads and vocabulary
split."""

import jax
import numpy as np
import pytest

from seekjax.config import KernelConfig
from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from sharding.rules import sharding
from tests.generate.engine.conftest import serve

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.mesh]


def test_a_mesh_of_eight_devices_changes_no_token(make):
    made = make(layers=1, dense_layers=0, mtp_depth=0)
    kernel = KernelConfig(attention="plain")
    random = np.random.default_rng(3)
    prompts = [random.integers(0, 48, length).tolist() for length in (9, 1, 30)]
    settings = {"max_new": 12, "temperature": 0.9, "top_p": 0.95}
    alone = Generator(made.model, made.variables, kernel)(prompts, Sampling(seed=4, **settings))

    with use_mesh(MeshConfig(data=2, expert=2, tensor=2)):
        on_host = jax.device_get(made.variables)
        placed = jax.device_put(on_host, jax.tree.map(sharding, made.axes))
        engine = Engine(
            made.model,
            placed,
            kernel,
            EngineSettings(page_size=8, max_batch=4, chunk=16, steps=4),
        )
        requests = [
            Request(prompt, RequestSampling(seed=4 + b, **settings))
            for b, prompt in enumerate(prompts)
        ]
        answers = serve(engine, requests)
        assert engine.programs.buckets.rows == (4,)
        assert [answer.ids for answer in answers] == [row.ids for row in alone]
