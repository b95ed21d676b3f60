"""Who is served next: short prompts before long ones, old ones in time, the youngest gives way."""

import numpy as np
import pytest

from seekjax.generate.engine.buckets import Buckets, bucket_of, growing, make_buckets
from seekjax.generate.engine.chunks import next_chunk
from seekjax.generate.engine.pages import PagePool
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.engine.schedule import Job, Scheduler
from seekjax.generate.engine.settings import EngineSettings

PAGE = 4


def job_of(length, new=8, salt=""):
    prompt = list(range(length))
    return Job(Request(prompt, salt=salt), list(prompt), length, length + new)


@pytest.fixture
def scheduler():
    return Scheduler(PagePool(40), PAGE, 3, lambda: np.zeros((PAGE, 1, 2), np.uint8))


def read(scheduler, chunk):
    """Read one chunk of the prompt whose turn it is."""
    job = scheduler.next_reader()
    scheduler.note_read(job, job.read + min(chunk, job.unread))
    if not job.unread:
        scheduler.start_decoding(job)
    return job


def test_a_short_prompt_waits_for_one_chunk_at_most_and_a_long_one_is_read_in_the_end(scheduler):
    long = job_of(80)
    scheduler.submit(long)
    scheduler.admit()
    assert read(scheduler, 8) is long
    turns = []
    for n in range(12):
        brief = job_of(6, salt=str(n))
        scheduler.submit(brief)
        scheduler.admit()
        waited = 1
        while read(scheduler, 8) is not brief:
            waited += 1
            turns.append(long.read)
        assert waited <= 2
        scheduler.finish(brief)
    assert turns
    assert long.read > 16


def test_places_and_pages_are_given_in_order(scheduler):
    jobs = [job_of(40), job_of(60, salt="a"), job_of(60, salt="b"), job_of(2)]
    for job in jobs:
        scheduler.submit(job)
    scheduler.admit()
    # 11 and 16 pages, and the third would leave none to grow with; nobody overtakes it
    assert scheduler.reading == jobs[:2]
    scheduler.finish(jobs[0])
    scheduler.admit()
    assert scheduler.reading == jobs[1:]
    assert not scheduler.waiting


def test_the_youngest_gives_way_and_begins_again_with_its_text(scheduler):
    jobs = [job_of(40, new=60, salt=str(n)) for n in range(3)]
    for job in jobs:
        scheduler.submit(job)
    scheduler.admit()
    for job in jobs:
        scheduler.note_read(job, 39)
        scheduler.start_decoding(job)
    while not scheduler.preemptions:
        for job in jobs:
            job.tokens.append(7)
        scheduler.make_room(1)
    assert scheduler.decoding == jobs[:2]
    assert list(scheduler.waiting) == jobs[2:]
    assert jobs[2].pages == []
    assert len(jobs[2].tokens) > 40

    # its pages are still cached as far as they were full, and it goes first
    scheduler.submit(job_of(3))
    scheduler.finish(jobs[0])
    scheduler.admit()
    assert scheduler.reading[0] is jobs[2]
    assert jobs[2].read == 36
    scheduler.pool.check()


def test_chunks_cover_a_prompt_and_write_each_page_once(scheduler):
    buckets = Buckets(rows=(1,), slots=(64,), chunks=(8, 32), spans=(32, 64))
    job = job_of(62)
    scheduler.submit(job)
    scheduler.admit()
    job.read = 12  # as if found in the prefix cache
    written, seen = [], []
    while job.unread:
        chunk = next_chunk(job, buckets, PAGE)
        tokens_1X, count, start, table_N, written_1J = chunk.arguments
        assert (start, count) == (chunk.start, chunk.count)
        assert chunk.start + chunk.program[1] <= chunk.program[2] == PAGE * len(table_N)
        assert tokens_1X[0, : chunk.count].tolist() == job.tokens[start : start + chunk.count]
        written += [page for page in written_1J[0].tolist() if page]
        seen += job.tokens[start + chunk.again : start + chunk.count]
        scheduler.note_read(job, chunk.start + chunk.count)
    assert seen == job.tokens[12:-1]
    assert written == job.pages[3:16]
    # the last one began earlier than it had to, because the cache ends
    assert chunk.again == 12


def test_buckets_have_the_limits_among_them():
    assert growing(1, 16) == (1, 4, 16)
    assert growing(256, 256) == (256,)
    assert growing(256, 5000) == (256, 1024, 4096, 5000)
    buckets = make_buckets(EngineSettings(page_size=16, max_batch=10, chunk=200), 1000)
    assert buckets == Buckets((1, 4, 5, 10), (256, 1008), (64, 208), (1008,))
    assert make_buckets(EngineSettings(max_batch=1), 1000).rows == (1,)
    assert [bucket_of(buckets.slots, n) for n in (1, 256, 257, 1008)] == [256, 256, 1008, 1008]


def test_what_is_asked_of_a_prompt_is_not_taken_from_the_cache(scheduler):
    for scored in (False, False, True):
        job = job_of(17)
        if scored:
            job.request.sampling = RequestSampling(prompt_logprobs=True)
        scheduler.submit(job)
        scheduler.admit()
        assert job.must_score == scored
        scheduler.note_read(job, 16)
        scheduler.finish(job)
        last = job.cached
    assert scheduler.prefix_hits == 16
    assert last == 0
