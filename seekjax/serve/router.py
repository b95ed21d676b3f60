"""Which of several engines answers a request."""

from collections import Counter, OrderedDict
from collections.abc import Iterable

from seekjax.generate.engine.pages import page_keys
from seekjax.generate.engine.request import Request

BLOCK = 64  # tokens of a prompt that are looked up together
REMEMBERED = 16_384  # blocks of each engine, a million tokens
# what a request in progress weighs, in tokens of a prompt: about as long takes its answer
IN_PROGRESS = 256


class Router:
    """Sends each request to the engine that has the least to do with it.

    Every engine has a prefix cache of its own. The router keeps which prompts each of them has
    had lately, so that the next turn of a conversation finds its pages. An engine may have evicted
    them meanwhile: then it reads the prompt again.
    """

    def __init__(self, engines: int):
        self._blocks: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(engines)]
        self._busy: Counter[int] = Counter()  # requests in progress, by engine
        self._latest: list[int] = list(range(engines))  # engines, the one used longest ago first

    def choose(self, request: Request, engines: Iterable[int]) -> int:
        """Return the engine for a request, which is in progress from now on.

        engines: those that may be chosen. Of equal ones it is the one used longest ago.
        """
        keys = page_keys(request.salt, request.prompt, BLOCK)
        allowed = set(engines)
        candidates = [engine for engine in self._latest if engine in allowed]
        chosen = min(candidates, key=lambda engine: self._cost(engine, request, keys))

        self._busy[chosen] += 1
        self._latest.remove(chosen)
        self._latest.append(chosen)
        self._remember(chosen, keys)
        return chosen

    def end(self, engine: int) -> None:
        """Note that one of an engine's requests has ended."""
        self._busy[engine] -= 1

    def _cost(
        self,
        engine: int,
        request: Request,
        keys: list[bytes],
    ) -> int:
        """Return the tokens that an engine must read for a request, and what it has in progress."""
        known = 0
        while known < len(keys) and keys[known] in self._blocks[engine]:
            known += 1
        return len(request.prompt) - known * BLOCK + self._busy[engine] * IN_PROGRESS

    def _remember(self, engine: int, keys: list[bytes]) -> None:
        blocks = self._blocks[engine]
        # the beginning last, so that it is forgotten last
        for key in reversed(keys):
            blocks[key] = None
            blocks.move_to_end(key)
        while len(blocks) > REMEMBERED:
            blocks.popitem(last=False)
