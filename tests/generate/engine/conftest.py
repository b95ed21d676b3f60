"""One engine for the tests of this folder, and the functions that drive it."""

import pytest

from seekjax.config import KernelConfig
from seekjax.generate.engine import engine as engine_module
from seekjax.generate.engine.buckets import make_buckets
from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.generator import Generator

KERNEL = KernelConfig(attention="plain")


class Answer:
    """What the updates of one request said."""

    def __init__(self):
        self.tokens = []
        self.updates = []

    @property
    def ids(self):
        return [token.id for token in self.tokens]

    @property
    def reason(self):
        return self.updates[-1].finish_reason

    def add(self, update):
        assert not self.updates or not self.reason
        self.updates.append(update)
        self.tokens += update.tokens


def serve(engine, requests, each_step=lambda answers: None) -> list[Answer]:
    """Submit requests and step until the engine is idle; return the answers in order."""
    answers = {request: Answer() for request in requests}
    for request in requests:
        engine.submit(request)
    while not engine.idle:
        for update in engine.step():
            answers[update.request].add(update)
        each_step(answers)
    engine.pool.check()
    assert engine.pool.held == 0
    return list(answers.values())


def greedy(prompt, max_new=16, **fields) -> Request:
    return Request(prompt, RequestSampling(max_new=max_new, temperature=0, **fields))


def make_engine(made, settings) -> Engine:
    """Return an engine with programs for one row and for a full batch alone, to compile few."""

    def few_buckets(*arguments):
        return make_buckets(*arguments)._replace(rows=(1, settings.max_batch))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "make_buckets", few_buckets)
        return Engine(made.model, made.variables, KERNEL, settings)


SETTINGS = EngineSettings(page_size=8, pages=40, max_batch=8, chunk=16, slots=32, steps=4, queue=12)


@pytest.fixture(scope="session")
def engine(made):
    """Programs for 1 and 8 rows, 32 and 64 slots."""
    engine = make_engine(made, SETTINGS)
    engine.compile()
    return engine


@pytest.fixture(scope="session")
def generator(made):
    return Generator(made.model, made.variables, KERNEL, draft=False)


@pytest.fixture
def cold(engine):
    """The engine with an empty prefix cache."""
    everything = engine.pool.allocate(engine.pool.total)
    engine.pool.release(everything)
    assert engine.pool.free == engine.pool.total
    return engine
