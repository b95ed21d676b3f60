"""The engine: requests join and leave a running batch at any step.

Each step reads at most one chunk of a prompt and makes one decoding call. Everything that is
decided is decided here on the host; what runs on the device was compiled before.
"""

import time
from collections.abc import Callable
from copy import copy
from typing import Any

import jax
import numpy as np

from seekjax.config import KernelConfig, ModelConfig
from seekjax.errors import GenerateError, need
from seekjax.generate.engine.batch import Batch
from seekjax.generate.engine.buckets import make_buckets
from seekjax.generate.engine.check import QueueFullError, check_request
from seekjax.generate.engine.chunks import Chunk, next_chunk
from seekjax.generate.engine.compiled import Programs
from seekjax.generate.engine.pages import PagePool
from seekjax.generate.engine.programs import Harvest, new_cache
from seekjax.generate.engine.report import (
    keep_experts,
    keep_scores,
    keep_tokens,
    load_of,
    report,
)
from seekjax.generate.engine.request import Request, Update
from seekjax.generate.engine.schedule import Job, Scheduler
from seekjax.generate.engine.seats import expert_dtype, expert_layers
from seekjax.generate.engine.settings import EngineSettings, EngineStatistics
from seekjax.generate.generator import choose_draft
from seekjax.generate.state import Decoder, decoding_variables
from seekjax.memory import free_bytes

__all__ = ["Engine", "EngineSettings", "EngineStatistics", "QueueFullError"]

CALL_SECONDS = 0.1  # of a decoding call, about


class Engine:
    """Continuous batching over a paged cache.

    Synchronous: used from one thread, within `use_mesh(mesh)`.
    """

    def __init__(
        self,
        model: ModelConfig,
        variables: dict,
        kernel: KernelConfig = KernelConfig(),
        settings: EngineSettings = EngineSettings(),
        consume: bool = False,
    ):
        """Copy each layer out of the stacks, as `Generator` does; `consume` frees them meanwhile.

        Raises GenerateError for a context that is longer than the model's.
        """
        need(
            settings.context <= model.context,
            f"the engine's context is {settings.context} and the model's {model.context}: lower "
            "the engine's.",
            GenerateError,
        )
        self.context = settings.context or model.context
        self.settings = settings
        self.model = model
        draft = choose_draft(variables, settings.draft)
        self.decoder = Decoder(model, kernel.without_fp8(), draft)
        weights = decoding_variables(self.decoder, variables, consume)

        # a draft is tried one position beyond the context
        buckets = make_buckets(settings, self.context + draft)
        self.programs = Programs(self.decoder, weights, buckets, settings.page_size)
        self.pages = settings.pages or self._pages_that_fit()
        self.programs.start(self.pages, settings.steps)
        self.layers = len(expert_layers(model))
        self._begin()

    def another(self) -> "Engine":
        """Return an engine with the same weights and programs, and with pages of its own.

        It may be used from another thread.
        """
        other = copy(self)
        other._begin()
        return other

    def _begin(self) -> None:
        """Begin without requests, with empty pages."""
        self.pools = self.programs.empty_pools()
        self.pool = PagePool(self.pages)
        self.scheduler = Scheduler(
            self.pool,
            self.settings.page_size,
            self.settings.max_batch,
            self._empty_experts,
        )
        self.batch = Batch(self.programs, self.model)
        self._jobs: dict[Request, Job] = {}
        self._updates: list[Update] = []
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._drafted = 0
        self._accepted = 0
        self._load = np.zeros((self.layers, self.model.experts), np.int64)

    def compile(self, show: Callable[[int, int], None] | None = None) -> None:
        """Compile all programs; afterwards nothing compiles, and what would have to is an error.

        show(compiled, all of them) is called after each.
        """
        self.programs.compile(show)

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn.

        Raises GenerateError for a request that can never be served, and its QueueFullError if as
        many wait as may wait.
        """
        room = self.pool.total * self.settings.page_size
        check_request(request, self.model, self.context, room)
        need(
            len(self.scheduler.waiting) < self.settings.queue,
            f"{self.settings.queue} requests wait already: try again later.",
            QueueFullError,
        )
        tokens = np.asarray(request.prompt).tolist()
        limit = min(len(tokens) + request.sampling.max_new, self.context)
        job = Job(request, tokens, len(tokens), limit)
        self._jobs[request] = job
        self._prompt_tokens += len(tokens)
        self.scheduler.submit(job)

    def cancel(self, request: Request) -> None:
        """End a request and free its pages at once; an update with "cancelled" follows.

        Nothing happens if it has ended already.
        """
        job = self._jobs.get(request)
        if job is not None:
            self._finish(job, "cancelled")

    def step(self) -> list[Update]:
        """Read at most one chunk of a prompt, make at most one decoding call; return what is new.

        Returns [] if there is nothing to do.
        """
        self.scheduler.admit()
        chunk = self._read_chunk()
        call = self._decode()
        if chunk is not None:
            self._take_chunk(*chunk)
        if call is not None:
            self._take_call(*call)

        updates, self._updates = self._updates, []
        if self.idle:
            self.pool.check()
        return updates

    @property
    def idle(self) -> bool:
        """True if there is nothing to do and nothing to report."""
        return self.scheduler.idle and not self._updates

    def statistics(self) -> EngineStatistics:
        """Return the counters."""
        scheduler, pool = self.scheduler, self.pool
        return EngineStatistics(
            queued=len(scheduler.waiting),
            running=len(scheduler.running),
            pages_total=pool.total,
            pages_free=pool.free,
            pages_evictable=pool.evictable,
            pages_held=pool.held,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            drafted=self._drafted,
            accepted=self._accepted,
            preemptions=scheduler.preemptions,
            load=self._load.copy(),
        )

    def _read_chunk(self) -> tuple[Job, Chunk, list, Any] | None:
        """Start the next chunk; jobs that have read their prompt begin to decode."""
        for job in list(self.scheduler.reading):
            if not job.unread:
                self.scheduler.start_decoding(job)
        job = self.scheduler.next_reader()
        if job is None:
            return None

        chunk = next_chunk(job, self.programs.buckets, self.settings.page_size)
        program = self.programs(*chunk.program)
        self.pools, *results = program(self.pools, *chunk.arguments)
        self.scheduler.note_read(job, chunk.start + chunk.count)
        if not job.unread:
            self.scheduler.start_decoding(job)
        return job, chunk, job.experts, results

    def _take_chunk(
        self,
        job: Job,
        chunk: Chunk,
        pages: list,
        results: Any,
    ) -> None:
        """Keep what the host has of a chunk: its experts, and the prompt's log probabilities."""
        choice_TLK, scores = jax.device_get(results)
        choice_TLK = choice_TLK[chunk.again : chunk.count]
        self._load += load_of(choice_TLK, self.model.experts)
        keep_experts(pages, chunk.start + chunk.again, choice_TLK, self.settings.page_size)
        if scores is not None:
            keep_scores(job, chunk.start, chunk.count, scores)

    def _decode(self) -> tuple[Harvest, dict[Job, int], int, float] | None:
        """Start a decoding call for all jobs that decode."""
        self._ask_filters()
        steps = self._choose_steps()
        self.scheduler.make_room(steps * self.decoder.tokens_per_step)
        jobs = self.scheduler.decoding
        if not jobs:
            self.batch.clear()
            return None

        began = time.perf_counter()
        sizes = self.batch.sizes_for(jobs, steps * self.decoder.tokens_per_step)
        self.batch.seat(self.pools, jobs, sizes)
        self.pools, harvest, rows = self.batch.decode(self.pools, steps)
        return harvest, rows, steps, began

    def _take_call(
        self,
        harvest: Harvest,
        rows: dict[Job, int],
        steps: int,
        began: float,
    ) -> None:
        """Append what a decoding call drew, and report it."""
        # most calls have no request that asks for these
        top = kept = False
        for job in rows:
            top |= job.request.sampling.top_logprobs > 0
            kept |= job.request.sampling.sampling_mask
        if not top:
            harvest = harvest._replace(top_id_BWX=None, top_log_prob_BWX=None)
        if not kept:
            harvest = harvest._replace(kept_BWx=None)
        harvest = jax.device_get(harvest)
        if self.decoder.draft:
            self._drafted += int(harvest.checked)
            self._accepted += int(harvest.accepted)
        self.batch.note_pace(steps, time.perf_counter() - began)

        for job, b in rows.items():
            before = len(job.tokens)
            reason = keep_tokens(job, b, harvest)
            new = len(job.tokens) - before
            self._generated_tokens += new

            # the last token before the call was read in it, the last new one was not
            choice_TLK = harvest.choice_BWLK[b, :new]
            self._load += load_of(choice_TLK, self.model.experts)
            keep_experts(job.experts, before - 1, choice_TLK, self.settings.page_size)
            self.scheduler.note_read(job, len(job.tokens) - 1)

            error = None if reason else self._accept(job, job.tokens[before:])
            if error is not None:
                self._finish(job, "error", error)
            elif reason:
                self._finish(job, reason)
            else:
                self._report(job)

    def _choose_steps(self) -> int:
        """Return the steps of the next call: one if a filter or a prompt waits for its end, else
        as many as take about CALL_SECONDS and have their pages.
        """
        scheduler = self.scheduler
        filtered = [job for job in scheduler.decoding if job.request.filter is not None]
        if filtered or scheduler.reading:
            return 1
        steps = self.batch.steps_within(CALL_SECONDS, self.settings.steps)
        while steps > 1 and not scheduler.can_extend(steps * self.decoder.tokens_per_step):
            steps //= 2
        return steps

    def _ask_filters(self) -> None:
        """Ask the filters of decoding jobs what is allowed next, where that is not known yet."""
        for job in list(self.scheduler.decoding):
            if job.request.filter is not None and job.mask is None:
                error = self._accept(job, [])
                if error is not None:
                    self._finish(job, "error", error)

    def _accept(
        self,
        job: Job,
        ids: list[int],
    ) -> Exception | None:
        """Tell a request's filter what was drawn and ask what is next; return what went wrong."""
        if job.request.filter is None:
            return None
        try:
            for id in ids:
                job.request.filter.accept(id)
            job.mask = job.request.filter.mask()
        except Exception as error:  # a filter is not ours, and must not end the others' answers
            return error
        if not job.mask.any():
            return GenerateError("the token filter allows no token at all.")
        return None

    def _report(
        self,
        job: Job,
        reason: str = "",
        error: Exception | None = None,
    ) -> None:
        update = report(job, self.settings.page_size, reason, error)
        if update is not None:
            self._updates.append(update)

    def _finish(
        self,
        job: Job,
        reason: str,
        error: Exception | None = None,
    ) -> None:
        """Report the end of a job and free its pages."""
        self._report(job, reason, error)
        del self._jobs[job.request]
        self.scheduler.finish(job)

    def _empty_experts(self) -> np.ndarray:
        """Return room for the experts of one page's tokens."""
        shape = (self.settings.page_size, self.layers, self.model.experts_per_token)
        return np.zeros(shape, expert_dtype(self.model))

    def _pages_that_fit(self) -> int:
        """Return the pages that max_batch requests of full length take, or as many as fit."""
        page = jax.eval_shape(lambda: new_cache(self.decoder, 1, self.settings.page_size))
        sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(page)]
        wanted = self.settings.max_batch * (
            self.programs.buckets.slots[-1] // self.settings.page_size
        )
        free = free_bytes()
        if free is None:
            return wanted
        return min(wanted, int(self.settings.memory * free) // sum(sizes))
