"""On a mesh the engine's answers are those of one device: rows, experts, heads and vocabulary
split. So are those of the server that stands on it.
"""

from concurrent.futures import ThreadPoolExecutor

import httpx
import jax
import numpy as np
import pytest

from seekjax.commands import serve as command
from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.open import OpenedModel
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from sharding.rules import sharding
from tests.commands.test_serve import serve_until
from tests.generate.engine.conftest import KERNEL, serve
from tests.serve.fake_engine import byte_tokenizer

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.mesh]

MESH = MeshConfig(data=2, expert=2, tensor=2)
SAMPLING = {"temperature": 0.9, "top_p": 0.95}
SEED, NEW = 4, 12
PROMPTS = [np.random.default_rng(3).integers(0, 48, length).tolist() for length in (9, 1, 30)]


@pytest.fixture(scope="module")
def made(make):
    """One layer of experts, for a tokenizer of bytes."""
    return make(layers=1, dense_layers=0, mtp_depth=0, vocab=320)


@pytest.fixture(scope="module")
def alone(made):
    """What one device writes behind each prompt."""
    generator = Generator(made.model, made.variables, KERNEL)
    return generator(PROMPTS, Sampling(max_new=NEW, seed=SEED, **SAMPLING))


@pytest.fixture(scope="module")
def engine(made):
    """An engine on eight devices, which compiles nothing more."""
    with use_mesh(MESH):
        on_host = jax.device_get(made.variables)
        placed = jax.device_put(on_host, jax.tree.map(sharding, made.axes))
        settings = EngineSettings(page_size=8, max_batch=4, chunk=16, steps=4)
        engine = Engine(made.model, placed, KERNEL, settings)
        engine.compile()
        return engine


def test_a_mesh_of_eight_devices_changes_no_token(engine, alone):
    assert engine.programs.buckets.rows == (4,)
    requests = []
    for b, prompt in enumerate(PROMPTS):
        requests.append(Request(prompt, RequestSampling(NEW, seed=SEED + b, **SAMPLING)))
    with use_mesh(MESH):
        answers = serve(engine, requests)
    assert [answer.ids for answer in answers] == [row.ids for row in alone]


def test_the_server_on_a_mesh_answers_as_one_device(engine, made, alone, monkeypatch, tmp_path):
    opened = OpenedModel(tmp_path, made.model, KERNEL, {}, byte_tokenizer())
    monkeypatch.setattr(command, "open_weights", lambda *_: opened)
    monkeypatch.setattr(command, "make_engines", lambda *_: [engine])
    monkeypatch.setattr(command, "weights_fingerprint", lambda _: "abc")
    monkeypatch.delenv("SEEKJAX_API_KEY", raising=False)

    def ask(url, b):
        """The only choice of a completion."""
        body = {"prompt": PROMPTS[b], "seed": SEED + b, "max_tokens": NEW, **SAMPLING}
        body |= {"ignore_eos": True, "return_token_ids": True, "logprobs": 0}
        response = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
        [choice] = response.raise_for_status().json()["choices"]
        return choice

    def ask_all(url):
        with ThreadPoolExecutor(len(PROMPTS)) as clients:
            choices = list(clients.map(ask, [url] * len(PROMPTS), range(len(PROMPTS))))
        return choices, httpx.get(f"{url}/metrics").text

    words = ("--mesh.data", "2", "--mesh.expert", "2", "--mesh.tensor", "2")
    status, (choices, metrics) = serve_until(ask_all, *words)
    assert status == 0
    assert [choice["token_ids"] for choice in choices] == [row.ids for row in alone]
    for choice, row in zip(choices, alone, strict=True):
        log_probs = choice["logprobs"]["token_logprobs"]
        np.testing.assert_allclose(log_probs, row.log_probs, atol=1e-5)
    assert 'seekjax_pages{state="held"} 0\n' in metrics
