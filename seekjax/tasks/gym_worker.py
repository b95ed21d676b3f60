"""The process that makes and scores reasoning-gym's problems, one JSON line each way. It is a
program of its own and imports nothing of seekjax.

Some of reasoning-gym's scorers evaluate the model's text. So each text is scored in a fork that
lives for that one text, cannot last, grow, write files, start programs or open connections,
evaluates nothing but mathematics, and is believed only with the nonce it was given.
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
from functools import lru_cache

MEMORY, SECONDS = (
    4 * 2**30,
    10,
)  # of a fork: address space, and processor time whatever the limit on waiting
# What scoring may do once its libraries are there, beside running code and reading what Python
# imports late.
ALLOWED = {
    "compile",
    "import",
    "marshal.loads",
    "os.listdir",
    "os.scandir",
    "object.__getattr__",
    "sys._getframe",
    "builtins.id",
}
# What evaluated text may name beside single letters: SymPy's numbers and functions of school
# mathematics ("sympy" is its own import).
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
    """Answers requests until there are none."""
    requests, replies = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)  # whatever a library prints, the replies stay clean
    for line in requests:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # told to whoever asked
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def answer(request: dict) -> dict:
    """{"families"}, one problem, or the score of a text."""
    if request["do"] == "list":
        from reasoning_gym import factory

        return {
            "families": {name: levels(factory.CURRICULA.get(name)) for name in factory.DATASETS}
        }
    dataset, entry = make(request["family"], request["level"], request["seed"])
    if request["do"] == "make":
        return {
            "question": str(entry["question"]),
            "answer": None if entry["answer"] is None else str(entry["answer"]),
        }
    return score(lambda: float(dataset.score_answer(request["text"], entry)), request["limit"])


def levels(curriculum) -> int:
    """How many difficulties a family has: those of its longest attribute, or one."""
    return (
        max([len(attribute.levels) for attribute in curriculum().attributes.values()], default=1)
        if curriculum
        else 1
    )


@lru_cache(1024)  # a group of samples is scored on one problem, and some take seconds to make
def make(family: str, level: int, seed: int) -> tuple:
    """A data set of one problem, every attribute of its curriculum at this level or its last; and
    the problem."""
    from reasoning_gym import factory

    random.seed(seed)  # for the few families that draw from the module
    if family not in factory.CURRICULA:
        dataset = factory.create_dataset(family, seed=seed, size=1)
        return dataset, dataset[0]
    curriculum = factory.CURRICULA[family]()
    for name, attribute in curriculum.attributes.items():
        curriculum.set_attr_level(name, min(level, len(attribute.levels)) - 1)
    config = curriculum.generate_configuration({"seed": seed, "size": 1})
    getattr(config, "validate", int)()
    dataset = factory.DATASETS[family][0](config=config)
    return dataset, dataset[0]


def score(judge, limit: float) -> dict:
    """What judge() says in a fork: {"score"}, {"error"} where it raises, or {"died"} where it does
    not come back."""
    nonce, (reading, writing) = secrets.token_hex(16), os.pipe()
    if not (child := os.fork()):
        try:
            os.dup2(writing, 3)
            os.closerange(4, 4096)  # the way to whoever asked, among others
            try:
                confine()
                said = {"score": judge()}
            except Exception as error:
                said = {"error": f"{type(error).__name__}: {error}"[:300]}
            os.write(3, (nonce + json.dumps(said)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    text = b""
    end = time.monotonic() + limit
    while (
        select.select([reading], [], [], max(0, end - time.monotonic()))[0]
        and (piece := os.read(reading, 4096))
        and len(text) < 4096
    ):
        text += piece
    late = time.monotonic() >= end
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    if not text.startswith(nonce.encode()):
        return {
            "died": f"scoring took over {limit:g} s"
            if late
            else "the text does what no answer does: scoring was stopped"
        }
    return json.loads(text[len(nonce) :])


def confine() -> None:
    """From here on this process can reckon, and nothing else."""
    for what, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    roots = tuple(
        os.path.realpath(path) + os.sep for path in sys.path if path and os.path.isdir(path)
    )

    def watch(event: str, details: tuple) -> None:
        reads_code = (
            event == "open"
            and isinstance(details[0], str)
            and details[1] in ("r", "rb", None)
            and not details[2] & (os.O_WRONLY | os.O_RDWR)
            and os.path.realpath(details[0]).startswith(roots)
            and details[0].endswith((".py", ".pyc", ".so"))
        )
        if (
            event not in ALLOWED
            and not reads_code
            and not (event == "exec" and is_harmless(details[0]))
        ):
            os._exit(3)

    sys.addaudithook(watch)


def is_harmless(code) -> bool:
    """Whether code comes from a file, which only an import can bring, or names nothing but
    mathematics (SymPy writes its monomial_mul as text)."""
    parts = [part for part in code.co_consts if hasattr(part, "co_names")]
    return not code.co_filename.startswith("<string") or (
        all(
            len(name) == 1 or name in MATHEMATICS or name.startswith("monomial_")
            for name in code.co_names
        )
        and all(map(is_harmless, parts))
    )


if __name__ == "__main__":
    importlib.import_module("reasoning_gym")
    main()
