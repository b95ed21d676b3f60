"""The process that makes and scores reasoning-gym's problems, one JSON line each way.

It is a program of its own and imports nothing of seekjax. Some of reasoning-gym's scorers evaluate
the model's text. So each text is scored in a fork that lives for that one text. The fork can
neither last nor grow, write files, start programs or open connections; it evaluates nothing but
mathematics, and its reply counts only with the nonce that it was given.
"""

import importlib
import json
import os
import random
import resource
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from types import CodeType
from typing import Any, NoReturn

# Of a fork.
MEMORY = 4 * 2**30  # bytes of address space
CPU_SECONDS = 10  # of processor time, whatever the limit on waiting
MAX_REPLY = 4096  # bytes

# The audit events that scoring may raise once its libraries are loaded, apart from executing code
# and reading what Python imports late.
ALLOWED_EVENTS = {
    "compile",
    "import",
    "marshal.loads",
    "os.listdir",
    "os.scandir",
    "object.__getattr__",
    "sys._getframe",
    "builtins.id",
}

# The names that evaluated text may contain, apart from single letters: SymPy's numbers and the
# functions of school mathematics ("sympy" is its own import).
MATHEMATICS = {
    "sympy",
    "Integer",
    "Float",
    "Rational",
    "Symbol",
    "Abs",
    "sqrt",
    "exp",
    "log",
    "ln",
    "pi",
    "E",
    "I",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
}


def main() -> None:
    """Answer requests until standard input ends."""
    requests = os.fdopen(os.dup(0), "r")
    replies = os.fdopen(os.dup(1), "w")

    # Whatever a library prints, the replies stay clean.
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)

    for line in requests:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # reported to the parent process
            reply = {"error": describe(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return {"families"}, one problem, or the score of a text."""
    if request["do"] == "list":
        from reasoning_gym import factory  # pyright: ignore[reportMissingImports]

        return {
            "families": {name: levels(factory.CURRICULA.get(name)) for name in factory.DATASETS}
        }

    dataset, entry = make(request["family"], request["level"], request["seed"])
    if request["do"] == "make":
        right = entry["answer"]
        return {
            "question": str(entry["question"]),
            "answer": None if right is None else str(right),
        }
    return score(lambda: float(dataset.score_answer(request["text"], entry)), request["limit"])


def levels(curriculum: Any) -> int:
    """Return the number of difficulties of a family: those of its longest attribute, or one."""
    if not curriculum:
        return 1
    counts = [len(attribute.levels) for attribute in curriculum().attributes.values()]
    return max(counts, default=1)


# A group of samples is scored on one problem, and some problems take seconds to make.
@lru_cache(1024)
def make(family: str, level: int, seed: int) -> tuple:
    """Return a data set of one problem, and the problem.

    Every attribute of the family's curriculum is at this level, or at its last one.
    """
    from reasoning_gym import factory  # pyright: ignore[reportMissingImports]

    random.seed(seed)  # for the few families that draw from the module
    if family not in factory.CURRICULA:
        dataset = factory.create_dataset(family, seed=seed, size=1)
        return dataset, dataset[0]

    curriculum = factory.CURRICULA[family]()
    for name, attribute in curriculum.attributes.items():
        curriculum.set_attr_level(name, min(level, len(attribute.levels)) - 1)
    config = curriculum.generate_configuration({"seed": seed, "size": 1})
    if hasattr(config, "validate"):
        config.validate()
    dataset = factory.DATASETS[family][0](config=config)
    return dataset, dataset[0]


def score(scorer: Callable[[], float], limit: float) -> dict[str, Any]:
    """Call a scorer in a fork, for at most `limit` seconds.

    Returns {"score"}, {"error"} if the scorer raises, or {"died"} if the fork gives no reply.
    """
    nonce = secrets.token_hex(16)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        score_in_fork(scorer, nonce, writing)
    os.close(writing)

    deadline = time.monotonic() + limit
    text = read_until(reading, deadline)
    is_late = time.monotonic() >= deadline
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)

    if text.startswith(nonce.encode()):
        return json.loads(text[len(nonce) :])
    if is_late:
        return {"died": f"scoring took over {limit:g} s"}
    return {"died": "the text does what no answer does: scoring was stopped"}


def score_in_fork(
    scorer: Callable[[], float],
    nonce: str,
    writing: int,
) -> NoReturn:
    """Write the nonce and the scorer's result to a descriptor, and exit."""
    try:
        os.dup2(writing, 3)
        os.closerange(4, 4096)  # the channel to the parent process, among others
        try:
            confine()
            reply: dict[str, Any] = {"score": scorer()}
        except Exception as error:
            reply = {"error": describe(error)}
        os.write(3, (nonce + json.dumps(reply)).encode())
    finally:
        os._exit(0)


def read_until(descriptor: int, deadline: float) -> bytes:
    """Read to the end, to MAX_REPLY bytes or until the deadline."""
    text = b""
    while len(text) < MAX_REPLY:
        remaining = max(0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], remaining)[0]:
            break
        piece = os.read(descriptor, MAX_REPLY)
        if not piece:
            break
        text += piece
    return text


def confine() -> None:
    """Take from this process everything but calculation, for good."""
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))

    folders = [path for path in sys.path if path and os.path.isdir(path)]
    roots = tuple(os.path.realpath(path) + os.sep for path in folders)

    def watch(event: str, details: tuple) -> None:
        """Exit at the first audit event that scoring does not need."""
        if event in ALLOWED_EVENTS:
            return
        if event == "open" and reads_code(details, roots):
            return
        if event == "exec" and is_harmless(details[0]):
            return
        os._exit(3)

    sys.addaudithook(watch)


def reads_code(details: tuple, roots: tuple[str, ...]) -> bool:
    """Return whether the arguments of an `open` event read a Python file below these folders."""
    path, mode, flags = details
    return (
        isinstance(path, str)
        and mode in ("r", "rb", None)
        and not flags & (os.O_WRONLY | os.O_RDWR)
        and os.path.realpath(path).startswith(roots)
        and path.endswith((".py", ".pyc", ".so"))
    )


def is_harmless(code: CodeType) -> bool:
    """Return whether code comes from a file or names nothing but mathematics.

    Only an import can bring code from a file. SymPy writes its monomial_mul as text.
    """
    if not code.co_filename.startswith("<string"):
        return True
    for name in code.co_names:
        if len(name) > 1 and name not in MATHEMATICS and not name.startswith("monomial_"):
            return False
    parts = [part for part in code.co_consts if isinstance(part, CodeType)]
    return all(map(is_harmless, parts))


def describe(error: Exception) -> str:
    """Return an error's type and message in at most 300 characters."""
    return f"{type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    importlib.import_module("reasoning_gym")
    main()
