"""Which of several engines answers a request."""

from collections import OrderedDict
from collections.abc import Mapping

from seekjax.generate.engine.pages import page_keys
from seekjax.generate.engine.request import Request

BLOCK = 64  # tokens of a prompt that are looked up together
REMEMBERED = 16_384  # blocks of each engine, a million tokens
IN_PROGRESS = 256  # tokens of a prompt that can be read in the time of an answer, about


class Router:
    """Sends each request to the engine that has the least to do with it.

    Every engine has a prefix cache of its own. The router keeps the latest prompts of each, and
    sends the next turn of a conversation to where its pages are. If the engine has evicted them
    meanwhile, it reads the prompt again.
    """

    def __init__(self, engines: int):
        self._blocks: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(engines)]
        self._latest = list(range(engines))  # the engine used longest ago first

    def choose(self, request: Request, in_progress: Mapping[int, int]) -> int:
        """Return the engine for a request.

        in_progress: the engines that may be chosen, with how many requests each has. Of equal
        engines it is the one used longest ago.
        """
        keys = page_keys(request.salt, request.prompt, BLOCK)

        def cost(engine: int) -> int:
            unread = len(request.prompt) - BLOCK * self._known(engine, keys)
            return unread + IN_PROGRESS * in_progress[engine]

        candidates = [engine for engine in self._latest if engine in in_progress]
        chosen = min(candidates, key=cost)
        self._latest.remove(chosen)
        self._latest.append(chosen)
        self._remember(chosen, keys)
        return chosen

    def _known(self, engine: int, keys: list[bytes]) -> int:
        """Return how many blocks from the beginning an engine has had."""
        known = 0
        while known < len(keys) and keys[known] in self._blocks[engine]:
            known += 1
        return known

    def _remember(self, engine: int, keys: list[bytes]) -> None:
        """Keep the blocks of a prompt, and forget the oldest."""
        blocks = self._blocks[engine]
        # the beginning last, so that it is forgotten last
        for key in reversed(keys):
            blocks[key] = None
            blocks.move_to_end(key)
        while len(blocks) > REMEMBERED:
            blocks.popitem(last=False)
