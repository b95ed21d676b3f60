"""A server over a fake engine: in process, or on a real socket in a thread."""

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx

from seekjax.serve.app import Api, make_app
from seekjax.serve.limits import Limits
from seekjax.serve.server import Server, bind
from seekjax.serve.service import Service
from tests.serve.fake_engine import FakeEngine, served_model


def make_api(engine=None, served=None, most=64, limits=None) -> Api:
    """The parts of a server over an engine, by default a fake one that says hello."""
    served = served or served_model()
    engine = engine or FakeEngine(served.tokenizer)
    return Api(Service([engine], most), served, limits or Limits())


@asynccontextmanager
async def client_of(api: Api, **options):
    """A client of the application itself, without sockets."""
    app = make_app(api, **options)
    api.service.start()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        try:
            yield client
        finally:
            await api.service.stop(5)


@contextmanager
def server_of(api: Api, drain=5.0, **options):
    """The address of a server with real sockets, in a thread."""
    listening = bind("127.0.0.1", 0)
    ready = threading.Event()
    app = make_app(api, **options)
    server = Server(app, api.service, api.limits, drain, ready.set)
    loops = []

    async def serve():
        loops.append(asyncio.get_running_loop())
        await server.serve([listening])

    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        if thread.is_alive():
            loops[0].call_soon_threadsafe(server.request_stop)
        thread.join(30)
        assert not thread.is_alive()
