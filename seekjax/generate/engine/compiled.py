"""The engine's programs, compiled ahead of time for every bucket; later nothing compiles.

On a mesh, pools are whole on every device, the seats are split as a batch is, and what the host
sends and reads is whole.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp

from seekjax.errors import GenerateError, need
from seekjax.generate.engine.buckets import Buckets
from seekjax.generate.engine.programs import decode, new_cache, new_seats, read_chunk, seat
from seekjax.generate.engine.request import MOST_BIASES
from seekjax.generate.engine.seats import STOPS, Row
from seekjax.generate.state import Decoder
from sharding.rules import in_use, sharding

THREADS = 2  # that compile
WHOLE = ""
ROWS = "batch"

Report = Callable[[int, int], None]  # programs compiled so far, and all of them


class Programs:
    """The programs of one model, by name and sizes.

    They are called as `programs("decode", rows, slots)(...)`, with the arguments of the functions
    in programs.py without decoder and variables.
    """

    def __init__(
        self,
        decoder: Decoder,
        variables: dict,
        buckets: Buckets,
        page_size: int,
    ):
        self.decoder = decoder
        self.variables = variables
        self.buckets = buckets
        self.page_size = page_size
        self._compiled: dict[tuple, Callable] = {}
        self._locks: defaultdict[tuple, Lock] = defaultdict(Lock)
        self._sealed = False
        self.waited = 0.0  # seconds in which a call compiled
        self.notice: Callable[[], AbstractContextManager] = nullcontext  # around them

    def start(
        self,
        pages: int,
        steps: int,
    ) -> None:
        """Set the number of pages and the most steps of a call, which enter every program."""
        self.width = 1 + steps * self.decoder.tokens_per_step
        self._make_pools = partial(new_cache, self.decoder, pages + 1, self.page_size)
        self.pools = placed(jax.eval_shape(self._make_pools), WHOLE)

    def empty_pools(self) -> Any:
        """Return the pools of an engine that begins."""
        return jax.jit(self._make_pools, out_shardings=layouts(self.pools))()

    def __call__(
        self,
        name: str,
        *sizes: int,
    ) -> Callable:
        """Return a program, compiled now, or by the thread that does so, if `compile` has not run.

        Raises GenerateError for one that `compile` did not compile.
        """
        key = (name, *sizes)
        if key not in self._compiled:
            need(
                not self._sealed,
                f"the engine has no program {name} of sizes {sizes}: every program is compiled at "
                "the start, and this one is not among them.",
                GenerateError,
            )
            began = time.perf_counter()
            with self.notice():
                self.compile_one(key)
            self.waited += time.perf_counter() - began
        return self._compiled[key]

    def compile_one(self, key: tuple) -> None:
        """Compile one of `all_keys`, or wait for the thread that compiles it."""
        with self._locks[key]:
            if key not in self._compiled:
                lowered = self._lower(*key)
                self._compiled[key] = self._bind(key[0], lowered.compile())

    def compile(self, report: Report | None = None) -> None:
        """Compile every program of every bucket; afterwards nothing compiles."""
        keys = [key for key in self.all_keys() if key not in self._compiled]
        with ThreadPoolExecutor(THREADS) as threads:
            running = {}
            for key in keys:
                lowered = self._lower(*key)
                running[key] = threads.submit(lowered.compile)
            for count, (key, future) in enumerate(running.items(), 1):
                self._compiled[key] = self._bind(key[0], future.result())
                if report is not None:
                    report(count, len(keys))
        self._sealed = True

    def all_keys(self) -> Iterator[tuple]:
        """Yield the name and sizes of every program."""
        for slots in self.buckets.slots:
            for rows in self.buckets.rows:
                yield "new_seats", rows, slots
                yield "seat", rows, slots
                yield "decode", rows, slots
        for span in self.buckets.spans:
            for chunk in self.buckets.chunks:
                yield "read", chunk, span
            yield "score", self.buckets.chunks[-1], span

    def _bind(
        self,
        name: str,
        program: Callable,
    ) -> Callable:
        """Return a program with the variables passed, if it reads them."""
        if name in ("decode", "read", "score"):
            return partial(program, self.variables)
        return program

    def _lower(
        self,
        name: str,
        *sizes: int,
    ) -> Any:
        """Return a program of these sizes, traced and ready to compile."""
        if name == "new_seats":
            make = partial(new_seats, self.decoder, *sizes)
            return jax.jit(make, out_shardings=layouts(self._seats(*sizes))).lower()
        if name in ("read", "score"):
            return self._lower_read(name == "score", *sizes)
        return {"seat": self._lower_seat, "decode": self._lower_decode}[name](*sizes)

    def _lower_seat(
        self,
        rows: int,
        slots: int,
    ) -> Any:
        seats = self._seats(rows, slots)
        program = jax.jit(seat, donate_argnums=1, out_shardings=layouts(seats))
        pages = host(jnp.int32, slots // self.page_size)
        return program.lower(self.pools, seats, host(jnp.int32), pages, row_shapes(slots))

    def _lower_decode(
        self,
        rows: int,
        slots: int,
    ) -> Any:
        seats = self._seats(rows, slots)
        arguments = (
            self.pools,
            seats,
            host(bool, rows),
            host(jnp.int32, rows, self.written_pages(self.width)),
            host(jnp.uint32, rows, -(-self.decoder.model.vocab // 32)),
            host(jnp.int32),
        )
        run = partial(decode, self.decoder, self.width)
        *_, harvest = jax.eval_shape(run, self.variables, *arguments)
        results = layouts((self.pools, seats, placed(harvest, WHOLE)))
        program = jax.jit(run, donate_argnums=(1, 2), out_shardings=results)
        return program.lower(self.variables, *arguments)

    def _lower_read(
        self,
        score: bool,
        chunk: int,
        span: int,
    ) -> Any:
        arguments = (
            self.pools,
            host(jnp.int32, 1, chunk + 1),
            host(jnp.int32),
            host(jnp.int32),
            host(jnp.int32, span // self.page_size),
            host(jnp.int32, 1, chunk // self.page_size),
        )
        run = partial(read_chunk, self.decoder, score)
        results = placed(jax.eval_shape(run, self.variables, *arguments), WHOLE)
        program = jax.jit(run, donate_argnums=1, out_shardings=layouts(results))
        return program.lower(self.variables, *arguments)

    def _seats(
        self,
        rows: int,
        slots: int,
    ) -> Any:
        return placed(jax.eval_shape(partial(new_seats, self.decoder, rows, slots)), ROWS)

    def written_pages(self, positions: int) -> int:
        """Return how many pages this many positions in a row touch at most."""
        return -(-(positions - 1) // self.page_size) + 1


def host(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    """Return the description of what the host sends."""
    return placed(jax.ShapeDtypeStruct(shape, dtype), WHOLE)


def placed(shapes: Any, axes: str) -> Any:
    """Return descriptions of arrays with their place on the mesh; `axes` splits the first axis."""
    if not in_use():
        return shapes

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        layout = sharding(axes if x.ndim else WHOLE)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout)

    return jax.tree.map(place, shapes)


def layouts(shapes: Any) -> Any:
    """Return the places of described arrays, for `jit`; None without a mesh."""
    if not in_use():
        return None
    return jax.tree.map(lambda x: x.sharding, shapes)


def row_shapes(slots: int) -> Row:
    """Return the descriptions of what a request brings to its seat."""
    whole, real = host(jnp.int32), host(jnp.float32)
    word, flag = host(jnp.uint32), host(bool)
    return Row(
        tokens_S=host(jnp.int32, slots),
        length=whole,
        limit=whole,
        prompt=whole,
        seed_low=word,
        seed_high=word,
        temperature=real,
        top_k=whole,
        top_p=real,
        min_p=real,
        repetition=real,
        frequency=real,
        presence=real,
        bias_id_X=host(jnp.int32, MOST_BIASES),
        bias_X=host(jnp.float32, MOST_BIASES),
        stop_X=host(jnp.int32, STOPS),
        filtered=flag,
        top=flag,
        kept=flag,
    )
