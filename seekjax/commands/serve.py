"""`seekjax serve`: a model over HTTP, by the protocols of seekjax/serve and with a chat page.

What happens goes to standard error; standard output has the one line with the address.
"""

import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from socket import socket

import jax

from seekjax.commands.common import keep_compiled
from seekjax.commands.generate import open_weights
from seekjax.commands.settings import Serve
from seekjax.config.values import check_values
from seekjax.console import progress
from seekjax.data.chat import load_chat
from seekjax.errors import Status, UsageError, need
from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.open import OpenedModel, need_tokenizer, on_mesh, weights_fingerprint
from seekjax.serve.app import Api, make_app
from seekjax.serve.gate import local_names
from seekjax.serve.limits import Limits, is_loopback
from seekjax.serve.served import Run, ServedModel
from seekjax.serve.server import Server, bind
from seekjax.serve.service import Service
from seekjax.terminal import visible
from seekjax.train.signals import listening
from sharding.mesh import platform

# parameters from which on one engine keeps two cores busy: its products are large enough to divide.
# Two are 1.5 times as fast with 30M, equal with 100M
MODEL_OF_TWO = 64e6
KEY = "SEEKJAX_API_KEY"  # in the environment, where a list of processes does not show it

log = logging.getLogger("seekjax.serve")


def serve(options: Serve) -> Status:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    # what needs no model, before the minutes that opening one may take
    check_values(options)
    check_engines(options)
    keys = read_keys(options)
    bound = bind(options.host, options.port)
    keep_compiled()

    with on_mesh(options.mesh):
        # until the first request there is nothing to save, and a signal ends the command at once
        with listening(own_process=True, is_run=False):
            with progress(f"opening {options.model.folder}"):
                opened = open_weights(options.model, options.replicas)
            engines = make_engines(options, opened)
            served = describe(options, opened, engines[0])
        return run(options, engines, served, keys, bound)


def check_engines(options: Serve) -> None:
    """Raise UsageError if there are more engines than places, or several on a mesh."""
    need(
        options.engines <= options.max_batch,
        f"--engines {options.engines} share --max-batch {options.max_batch} places: leave each of "
        "them at least one.",
        UsageError,
    )
    need(
        options.engines <= 1 or one_device(options),
        f"--engines {options.engines} work on one device, and the mesh has several: leave one of "
        "the two options out.",
        UsageError,
    )


def read_keys(options: Serve) -> list[str]:
    """Return the keys that are accepted: of the option, or of the environment.

    Raises UsageError if there is none and other machines could reach the server.
    """
    key = options.api_key or os.environ.get(KEY, "")
    need(
        key or options.no_key or is_loopback(options.host),
        f"other machines can reach {options.host} and use this model: give --api-key or set {KEY}, "
        "or allow them with --no-key.",
        UsageError,
    )
    need(
        not (key and options.no_key),
        "--no-key and a key contradict each other: leave one of them out.",
        UsageError,
    )
    return [key] if key else []


def one_device(options: Serve) -> bool:
    """Return whether the mesh has a single device."""
    return set(vars(options.mesh).values()) == {1}


def choose_engines(options: Serve, opened: OpenedModel) -> int:
    """Return how many engines are fastest here, unless it is said."""
    if options.engines:
        return options.engines
    parameters = sum(x.size for x in jax.tree.leaves(opened.variables))
    gains = platform() == "cpu" and one_device(options) and (os.cpu_count() or 1) > 1
    # pages that are counted by hand stay together, for requests of any length
    divides = options.max_batch > 1 and not options.pages
    return 2 if gains and divides and parameters < MODEL_OF_TWO else 1


def make_engines(options: Serve, opened: OpenedModel) -> list[Engine]:
    """Return the engines with all of their programs compiled.

    They have weights and programs in common, and divide the batch, the pages and the memory.
    """
    count = choose_engines(options, opened)
    settings = EngineSettings(
        max_batch=math.ceil(options.max_batch / count),
        context=options.context,
        pages=math.ceil(options.pages / count),
        queue=options.max_batch + options.queue,  # the service refuses before the engine does
        memory=EngineSettings.memory / count,
        draft=options.model.draft,
    )
    engine = Engine(opened.model, opened.variables, opened.kernel, settings, consume=True)
    with progress("compiling") as show:

        def report(compiled: int, programs: int) -> None:
            show(compiled / programs, f"{compiled} of {programs} programs")

        engine.compile(report)
    return [engine, *(engine.another() for _ in range(count - 1))]


def describe(
    options: Serve,
    opened: OpenedModel,
    engine: Engine,
) -> ServedModel:
    """Return the model as the protocols name it."""
    tokenizer = need_tokenizer(opened)
    template = load_chat(opened.folder, tokenizer, options.template, options.template_settings)
    model = opened.model
    run = Run(
        hash=weights_fingerprint(opened.folder),
        step=None if opened.step is None else int(opened.step.name),
        experts=(engine.layers, model.experts, model.experts_per_token),
        draft=engine.decoder.draft,
    )
    return ServedModel(
        options.name or opened.folder.resolve().name,
        tokenizer,
        template,
        engine.context,
        run,
        created=int(time.time()),
        aliases=options.alias,
    )


def run(
    options: Serve,
    engines: Sequence[Engine],
    served: ServedModel,
    keys: list[str],
    bound: socket,
) -> Status:
    """Serve until a signal, and return the exit status."""

    def log_body(body: dict) -> None:
        log.info("%s", visible(str(body)))

    most = options.max_batch + options.queue
    service = Service(engines, most, lambda: on_mesh(options.mesh))
    limits = Limits(body=options.max_body, per_address=options.max_connections)
    api = Api(service, served, limits, log_body if options.log_prompts else None)
    hosts = () if keys or not is_loopback(options.host) else local_names(options.host)
    server = Server(
        make_app(api, keys, hosts),
        service,
        limits,
        options.drain,
        ready=lambda: print(ready_line(served, bound), flush=True),
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    with log_to_stderr():
        asyncio.run(server.serve([bound]))
    return Status.INTERRUPTED if server.interrupted else Status.FINISHED


def ready_line(served: ServedModel, bound: socket) -> str:
    """Return the line that says where the server is, for a person and for a script."""
    host, port = bound.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    step = "" if served.run.step is None else f" (step {served.run.step})"
    return f"http://{host}:{port} serves {visible(served.name)}{step}; Ctrl-C ends"


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Write what happens to requests on standard error within the block.

    uvicorn's own lines are left out, unless it fails.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    uvicorn = logging.getLogger("uvicorn")
    before = log.level, log.propagate, uvicorn.level

    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    uvicorn.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
        uvicorn.setLevel(before[2])
