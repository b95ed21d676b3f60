"""Programs that attack the sandbox: none gets a reward, reaches the host or outlives its limits."""

import os
import random
import socket
import time
import uuid
from pathlib import Path

from seekjax.errors import SandboxError
from seekjax.sandbox import Limits, find_backend, grade
from tests.benchmarks.trials.row import Row, some
from tests.sandbox.attacks import ATTACKS, BODIES

SHORT = Limits(seconds=0.4, memory=96 << 20, output=4096, scratch=64 << 10)
CASES = [([[1, 2, 3]], 6), ([[]], 0), ([[1]], 1), ([[20, -4]], 16)]  # the sum
HONEST = "def f(v):\n    return sum(v)"
NUMBER = 150
SECONDS = SHORT.seconds + 8


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Run every attack as it is, and then some at import time instead of in the function."""
    row = Row("sandbox attacks", "no reward, no secret, no connection, within its time")
    with row.clock():
        try:
            find_backend()
        except SandboxError as error:
            row.note = str(error)
            return [row]
        row.check(grade(HONEST, "f", CASES)[0] == 1, "an honest program earns nothing")

        attacks = dict(ATTACKS)
        for name in sorted(BODIES)[: NUMBER - len(attacks)]:
            attacks[f"{name}, at import"] = at_import(BODIES[name])
        secret = f"secret-{uuid.uuid4()}"
        (work / "secret").write_text(secret)
        os.environ["SEEKJAX_TEST_SECRET"] = secret
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0)
            for name in rng.sample(sorted(attacks), some(NUMBER, share)):
                fault = attack(attacks[name], work / "secret", secret, server)
                row.check(not fault, f"{name}: {fault}")
    return [row]


def at_import(body: str) -> str:
    """Return an attack that runs when its module does."""
    return f"def attack(v):\n    {body}\nattack([1, 2, 3])\nf = attack"


def attack(text: str, file: Path, secret: str, server: socket.socket) -> str:
    """Grade an attack, and return what it achieved, or ""."""
    port = str(server.getsockname()[1])
    text = text.replace("SECRET", repr(str(file))).replace("PORT", port)
    began = time.monotonic()
    reward, reason = grade(text, "f", CASES, SHORT)
    seconds = time.monotonic() - began
    if reward:
        return f"earns {reward}"
    if secret in reason:
        return "reads the secret"
    if file.read_text() != secret:
        return "writes to the host"
    if seconds > SECONDS:
        return f"takes {seconds:.0f} s"
    try:
        server.accept()
    except BlockingIOError:
        return ""
    return "connects to the host"
