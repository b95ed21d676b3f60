"""The page pool, on the host: which page of the cache belongs to whom. NumPy and hashes, no JAX.

A page holds the entries of page_size tokens in every layer. A full page has a key, the hash of
its tokens and of all before them, under which later requests with the same beginning find it
again. Every page is in one of three states, and their numbers add up to all of them:

    free        nothing worth keeping
    held        used by one request, or shared by more
    evictable   used by none, still under its key; the one unused longest is overwritten first

Page 0 is not one of them: padding is written to it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

PADDING = 0  # the page that is never read


class PagePool:
    """Pages 1 to `total`, their users, and the prefix cache."""

    def __init__(self, total: int):
        self.total = total
        self.extras: dict[int, Any] = {}  # what is kept on the host next to a cached page
        self._free = list(range(total, 0, -1))
        self._users: dict[int, int] = {}  # of each held page
        self._evictable: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """The number of free pages."""
        return len(self._free)

    @property
    def evictable(self) -> int:
        """The number of cached pages that no request uses."""
        return len(self._evictable)

    @property
    def held(self) -> int:
        """The number of pages in use."""
        return len(self._users)

    @property
    def available(self) -> int:
        """The number of pages that `allocate` could return."""
        return self.free + self.evictable

    def share(self, keys: Sequence[bytes]) -> list[int]:
        """Return the cached pages of the longest beginning of these keys, now held once more."""
        pages = []
        for key in keys:
            if key not in self._page_of:
                break
            page = self._page_of[key]
            self._evictable.pop(page, None)
            self._users[page] = self._users.get(page, 0) + 1
            pages.append(page)
        return pages

    def allocate(self, count: int) -> list[int] | None:
        """Return this many pages, now held, evicting what must be; None if there are too few."""
        if count > self.available:
            return None

        pages = []
        for _ in range(count):
            if not self._free:
                self._evict()
            page = self._free.pop()
            self._users[page] = 1
            pages.append(page)
        return pages

    def release(self, pages: Sequence[int]) -> None:
        """Return the pages of a request, in the order of its tokens.

        The last ones become evictable first: a beginning is shared more often than a whole.
        """
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._key_of:
                self._evictable[page] = None
            else:
                self._free.append(page)

    def register(
        self,
        page: int,
        key: bytes,
        extra: Any = None,
    ) -> None:
        """Let later requests find a full page, which is held, unless another one has its key."""
        if key in self._page_of or page in self._key_of:
            return
        self._page_of[key] = page
        self._key_of[page] = key
        self.extras[page] = extra

    def check(self) -> None:
        """Raise AssertionError unless every page is in one state, and cached pages have one key."""
        assert self.free + self.evictable + self.held == self.total
        everything = {*self._free, *self._evictable, *self._users}
        assert everything == set(range(1, self.total + 1))
        assert min(self._users.values(), default=1) > 0
        assert {key: page for page, key in self._key_of.items()} == self._page_of
        assert not set(self._free) & set(self._key_of)
        assert set(self._evictable) <= set(self._key_of) == set(self.extras)

    def _evict(self) -> None:
        page, _ = self._evictable.popitem(last=False)
        del self._page_of[self._key_of.pop(page)]
        del self.extras[page]
        self._free.append(page)


def page_keys(
    salt: str,
    ids: Sequence[int],
    page_size: int,
    before: Sequence[bytes] = (),
) -> list[bytes]:
    """Return the keys of all full pages of a text; `before` are those of its first pages.

    A key is the hash of the key before it, or of the salt, and of the page's ids.
    """
    keys = list(before)
    for start in range(len(keys) * page_size, len(ids) - page_size + 1, page_size):
        previous = keys[-1] if keys else blake2b(salt.encode(), digest_size=16).digest()
        page = np.asarray(ids[start : start + page_size], np.int32)
        keys.append(blake2b(previous + page.tobytes(), digest_size=16).digest())
    return keys
