"""The page pool, against a model of it: pages are never lost, shared wrongly or given out twice."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seekjax.generate.engine.pages import PagePool, page_keys

SIZE = 2


class Pool(RuleBasedStateMachine):
    """Texts of few tokens, so that many have the same beginning, in a pool that is too small.

    Each page has a content, as the device has it: what the last one to whom it was given wrote.
    """

    def __init__(self):
        super().__init__()
        self.texts = []  # (salt, ids, pages) of each request
        self.content = {}

    @initialize(total=st.integers(1, 12))
    def begin(self, total):
        self.pool = PagePool(total)

    @rule(
        salt=st.sampled_from(["", "other"]),
        ids=st.lists(st.integers(0, 1), min_size=1, max_size=12),
    )
    def join(self, salt, ids):
        keys = page_keys(salt, ids, SIZE)
        shared = self.pool.share(keys)
        for i, page in enumerate(shared):
            assert self.content[page] == (salt, ids[: (i + 1) * SIZE])

        available = self.pool.available
        needed = -(-len(ids) // SIZE) - len(shared)
        fresh = self.pool.allocate(needed)
        if fresh is None:
            assert needed > available
            self.pool.release(shared)
            return

        # nobody else has what was given out
        held = [page for _, _, pages in self.texts for page in pages]
        assert not set(fresh) & {*held, *shared, 0}
        pages = shared + fresh
        for i, page in enumerate(pages):
            self.content[page] = (salt, ids[: (i + 1) * SIZE])
        for page, key in zip(pages, keys):
            self.pool.register(page, key)
        self.texts.append((salt, ids, pages))

    @rule(data=st.data())
    def leave(self, data):
        if self.texts:
            which = data.draw(st.integers(0, len(self.texts) - 1))
            _, _, pages = self.texts.pop(which)
            self.pool.release(pages)

    @invariant()
    def adds_up(self):
        if hasattr(self, "pool"):
            self.pool.check()
            held = {page for _, _, pages in self.texts for page in pages}
            assert self.pool.held == len(held)


Pool.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestPool = Pool.TestCase


def test_the_page_unused_longest_goes_first_and_ends_before_beginnings():
    pool = PagePool(4)
    first, second = page_keys("", [1, 1, 2, 2], SIZE), page_keys("", [3, 3, 4, 4], SIZE)
    for keys in (first, second):
        pages = pool.allocate(2)
        for page, key in zip(pages, keys):
            pool.register(page, key)
        pool.release(pages)
    assert pool.evictable == 4

    pool.release(pool.allocate(1))
    assert len(pool.share(first)) == 1
    assert len(pool.share(second)) == 2


def test_keys_depend_on_salt_and_on_all_before():
    keys = page_keys("", [1, 2, 3, 4, 5], SIZE)
    assert len(keys) == 2
    assert page_keys("", [1, 2, 3, 4], SIZE, keys[:1]) == keys
    assert not set(keys) & set(page_keys("s", [1, 2, 3, 4], SIZE))
    assert page_keys("", [0, 2, 3, 4], SIZE)[1] != keys[1]
