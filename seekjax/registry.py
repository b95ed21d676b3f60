"""Choices that a user names: tables of functions, each also open to `module:name` from outside."""

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from seekjax.errors import ConfigError, SeekjaxError, need

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A table of named choices of one kind, as `SCORES = Registry("router score", {...})`.

    Iterating, `in` and `[]` see only the table. `find` also imports what `module:name` names, so
    that a researcher's own function needs no change inside this package.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]):
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> T:
        """Return the choice of this name, or the object that `module:name` names.

        Raises ConfigError with the nearest name if the table has no such entry, and with the
        reason if the module cannot be imported or does not define the name.
        """
        if is_foreign(name):
            choice = load_object(name, self.kind)
            self._check_type(name, choice)
            return choice
        if name in self._entries:
            return self._entries[name]

        raise ConfigError(
            f"there is no {self.kind} {name!r}{did_you_mean(name, self._entries)} Choose one of "
            f"{', '.join(self._entries)}, or name your own as module:name."
        )

    def _check_type(self, name: str, choice: Any) -> None:
        """Raise ConfigError unless a choice from outside is a class or function as those here."""
        for is_such, expected in ((inspect.isclass, "class"), (callable, "function")):
            if all(map(is_such, self._entries.values())):
                need(
                    is_such(choice),
                    f"the {self.kind} {name} is of type {type(choice).__name__}: it must be a "
                    f"{expected}.",
                )


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ": did you mean 'NEAREST'?" to end a sentence with, or "." if no name is similar."""
    similar = difflib.get_close_matches(name, names, 1)
    return f": did you mean {similar[0]!r}?" if similar else "."


def is_foreign(name: str) -> bool:
    """Return whether a choice names an object outside this package, as `module:name`."""
    module, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier():
        return False
    return all(part.isidentifier() for part in module.split("."))


def load_object(path: str, kind: str) -> Any:
    """Import what `module:name` names. Raises ConfigError if that fails.

    A module may lie in the current folder, whichever program was started; one that is installed
    comes first. Data workers inherit `sys.path`, so they find the module too.
    """
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except SeekjaxError:
        raise
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"the {kind} {path} cannot be imported ({type(error).__name__}: {error}): name a "
            "module that Python finds from this folder."
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(
            f"the {kind} {path} does not exist: {module_name} does not define {attribute}."
        ) from error
