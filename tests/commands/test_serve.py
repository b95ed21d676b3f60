"""`seekjax serve`: what it refuses, what it prints, and how it ends."""

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from seekjax.commands import serve as command
from seekjax.commands.cli import main
from seekjax.commands.settings import ModelOptions
from seekjax.config import KernelConfig
from seekjax.open import OpenedModel
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER
from tests.serve.fake_engine import LAYERS, FakeEngine, byte_tokenizer


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The engine that the command gets instead of a model's."""
    tokenizer = byte_tokenizer()
    engine = FakeEngine(tokenizer, "Hello.")
    engine.layers, engine.context, engine.decoder = LAYERS, 512, SimpleNamespace(draft=False)
    opened = OpenedModel(tmp_path, ONE_LAYER, KernelConfig(), {}, tokenizer)
    monkeypatch.setattr(command, "open_weights", lambda *_: opened)
    monkeypatch.setattr(command, "make_engines", lambda *_: [engine])
    monkeypatch.setattr(command, "weights_fingerprint", lambda _: "abc")
    monkeypatch.delenv("SEEKJAX_API_KEY", raising=False)
    return engine


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve_until(work, *words):
    """The exit status of the command, and what `work(url)` returned while it served."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    results = []

    def client():
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.02)
        try:
            results.append(work(url))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client, daemon=True)
    thread.start()
    status = main(["serve", "model", "--port", str(port), *words])
    thread.join()
    return status, *results


def ask(url, **fields):
    """The text of an answer."""
    body = json.dumps({"messages": [{"role": "user", "content": "secret"}], **fields}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def test_it_serves_until_a_signal(fake, capsys, tmp_path):
    status, text = serve_until(ask)
    assert (status, text) == (0, "Hello.")
    printed = capsys.readouterr()
    assert printed.out.startswith("http://127.0.0.1:")
    assert f"serves {tmp_path.name}; Ctrl-C ends" in printed.out
    assert "POST /v1/chat/completions 200" in printed.err
    assert "secret" not in printed.err
    assert "ends after the answers in progress" in printed.err


def test_a_signal_lets_answers_end(fake):
    fake.script, fake.delay = "a rather long answer", 0.02
    texts = []

    def begin(url):
        thread = threading.Thread(target=lambda: texts.append(ask(url)))
        thread.start()
        while not fake.requests:
            time.sleep(0.01)
        return thread

    status, thread = serve_until(begin)
    thread.join()
    assert (status, texts) == (0, ["a rather long answer"])


def test_prompts_are_logged_if_wanted(fake, capsys):
    serve_until(ask, "--log-prompts", "--name", "m", "--alias", "other")
    assert "secret" in capsys.readouterr().err


def test_the_names_are_those_of_the_options(fake):
    def names(url):
        with urllib.request.urlopen(f"{url}/v1/models") as answer:
            return [model["id"] for model in json.load(answer)["data"]]

    assert serve_until(names, "--name", "m", "--alias", "other")[1] == ["m", "other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engines", "3", "--max-batch", "2"], "--engines 3 share --max-batch 2 places"),
        (["--engines", "2", "--mesh.data", "2"], "--engines 2 work on one device"),
        (["--engines", "-1"], "engines"),
    ],
)
def test_engines_that_cannot_be_are_refused(fake, capsys, words, said):
    assert main(["serve", "model", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "parameters", "expected"),
    [
        ({}, 1e6, 2),
        ({}, 1e9, 1),
        ({"pages": 40}, 1e6, 1),
        ({"max_batch": 1}, 1e6, 1),
        ({"mesh": MeshConfig(data=2)}, 1e6, 1),
        ({"engines": 3}, 1e9, 3),
    ],
)
def test_small_models_on_a_cpu_have_two_engines(
    monkeypatch, tmp_path, fields, parameters, expected
):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    weights = {"w": SimpleNamespace(size=parameters)}
    opened = OpenedModel(tmp_path, ONE_LAYER, KernelConfig(), weights, byte_tokenizer())
    options = command.Serve(ModelOptions(tmp_path), **fields)
    assert command.choose_engines(options, opened) == expected


def test_engines_divide_batch_pages_and_memory(monkeypatch, tmp_path):
    class Recorded:
        def __init__(self, model, variables, kernel, settings, consume):
            self.settings = settings

        def compile(self, report):
            report(1, 1)

        def another(self):
            return self

    monkeypatch.setattr(command, "Engine", Recorded)
    opened = OpenedModel(tmp_path, ONE_LAYER, KernelConfig(), {}, byte_tokenizer())
    options = command.Serve(ModelOptions(tmp_path), max_batch=16, pages=33, queue=64, engines=2)
    first, second = command.make_engines(options, opened)
    assert first.settings == second.settings
    assert (first.settings.max_batch, first.settings.pages, first.settings.queue) == (8, 17, 80)
    assert first.settings.memory == command.EngineSettings.memory / 2


def test_a_foreign_host_name_is_refused_on_loopback(fake):
    def status(url):
        request = urllib.request.Request(f"{url}/health", headers={"host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request)
        return refusal.value.code

    assert serve_until(status)[1] == 403


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "0.0.0.0"], "other machines can reach 0.0.0.0"),
        (["--api-key", "x", "--no-key"], "contradict each other"),
        (["--port", "99999"], "at most 65,535"),
        (["--host", "no.such.host.invalid", "--no-key"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(fake, words, sentence, capsys):
    try:
        status = main(["serve", "model", *words])
    except SystemExit as ended:  # of the options themselves
        status = ended.code
    assert status == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_port_that_is_taken_is_named(fake, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "model", "--port", str(port)]) == 2
    assert (
        f"cannot listen on 127.0.0.1 port {port} (Address already in use)"
        in capsys.readouterr().err
    )


def test_a_key_of_the_environment_is_needed(fake, monkeypatch):
    monkeypatch.setenv("SEEKJAX_API_KEY", "from the environment")

    def status(url):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            ask(url)
        return refusal.value.code

    assert serve_until(status)[1] == 401
