"""The command lines and Python blocks of the READMEs: read them, and run them in small.

    python -m tests.scripts.readme FOLDER [PART]     run those with PART in them, or all, in FOLDER

Every fence of a README names its language: `sh` for command lines, `python`, or `text` for what is
printed. tests/test_readme.py checks that each line is one that the program accepts; this script
runs them, in the order of the pages, on a model of one layer.
"""

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.flags import PATIENT, QUICK

if __name__ == "__main__":  # before jax starts
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    os.environ["XLA_FLAGS"] = f"{PATIENT} {QUICK}"

from tests.programs import share

if __name__ == "__main__":
    share()  # before the modules that compile steps are imported

from seekjax.commands.arguments import config_name, load_config
from seekjax.commands.cli import main
from seekjax.workflow import Workflow

ROOT = Path(__file__).parents[2]

# In the order in which somebody could follow them: later pages start from what earlier ones made.
PAGES = (
    "seekjax/train/README.md",
    "sharding/README.md",
    "seekjax/hf/README.md",
    "seekjax/post/README.md",
    "seekjax/generate/README.md",
    "seekjax/serve/README.md",
    "seekjax/plan/README.md",
    "seekjax/README.md",
    "README.md",
    "notebooks/README.md",
    "CONTRIBUTING.md",
)

# What makes a training small enough; of an option that is given twice the later counts.
SMALL_MODEL = """--model.layers 1 --model.dense-layers 0 --model.mtp-depth 0 --model.embed 32
    --model.heads 2 --model.hidden 32 --model.expert-hidden 32 --model.experts 4
    --model.experts-per-token 2 --model.expert-groups 1 --model.groups-per-token 1
    --model.q-latent 32 --model.kv-latent 32 --model.nope 16 --model.rotary 16 --model.value 16
    --model.vocab 512"""
SMALL_RUN = """--train.steps 2 --train.batch 8 --train.micro-batch 8 --train.log-every 1
    --train.eval-batches 1 --train.eval-every 2 --train.save-every 2 --data.sequence 256"""
SMALL_KIND = {
    "grpo": "--grpo.prompts 2 --grpo.group 4 --grpo.max-new 16 --no-grpo.preflight",
    "distill": "--distill.sampling.max-new 16",
}
PUBLISHED = ("moe_16b", "v2_lite", "v2", "v3")  # their schedules do not fit two steps
NEEDS_TRAINING = ("sample",)  # it keeps right answers, and two steps teach none
# What somebody has from elsewhere, before the lines of a page.
MADE_BEFORE = {"seekjax/hf/README.md": "seekjax convert --from runs/tiny --to DeepSeek-V2-Lite"}
SMALL_COMMAND = {
    "generate": "--max-new 4",
    "chat": "--max-new 4",
    "eval": "--max-new 8",
    "sample": "--max-new 8 --problems 2",
    "serve": "--max-batch 2 --context 256",
    "rollouts": "--step 2",
}


@dataclass(frozen=True)
class Block:
    """A fence of a README."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Line:
    """A command line: the variables set before it, and its words."""

    place: str
    variables: dict[str, str]
    words: list[str]

    def __str__(self) -> str:
        """Return the line as it is typed."""
        set_before = [f"{name}={value}" for name, value in self.variables.items()]
        return shlex.join([*set_before, *self.words])


def blocks(page: str) -> list[Block]:
    """Return the fences of a page, in order."""
    found, opened, start = [], None, 0
    lines = (ROOT / page).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened, start = line.removeprefix("```").strip(), number
        else:
            text = "\n".join(lines[start : number - 1])
            found.append(Block(page, start, opened, text))
            opened = None
    return found


def command_lines(page: str) -> list[Line]:
    """Return the command lines of a page: those of its `sh` fences, and those in backquotes."""
    lines = []
    for block in blocks(page):
        if block.language != "sh":
            continue
        for number, text in enumerate(block.text.splitlines(), block.line + 1):
            lines += split(text, f"{page}:{number}")
    return lines + inline_lines(page)


def inline_lines(page: str) -> list[Line]:
    """Return the lines in backquotes within a sentence or a table, if they are whole."""
    placeholders = {"CONFIG", "RUN", "MODEL", "FOLDER", "..."}
    lines = []
    in_fence = False
    for number, text in enumerate((ROOT / page).read_text().splitlines(), 1):
        in_fence ^= text.startswith("```")
        if in_fence or text.startswith("```"):
            continue
        for quoted in text.split("`")[1::2]:
            whole = quoted.startswith(("python train.py", "seekjax ", "python -m "))
            whole = whole and len(quoted.split()) > 2  # `seekjax chat` alone names a command
            if whole and not placeholders & set(quoted.split()):
                lines += split(quoted, f"{page}:{number}")
    return lines


def split(text: str, place: str) -> list[Line]:
    """Return the commands of a line, which && may join; without its comment."""
    lines, words = [], []
    for word in [*shlex.split(text, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
            continue
        variables = {}
        while words and "=" in words[0] and words[0].split("=")[0].isidentifier():
            name, value = words.pop(0).split("=", 1)
            variables[name] = value
        if words:
            lines.append(Line(place, variables, words))
        words = []
    return lines


def words_of(line: Line) -> list[str] | None:
    """Return the words of a line as a command of seekjax; None if it is another program's."""
    if line.words[:2] == ["python", "train.py"]:
        return ["train", *line.words[2:]]
    if line.words[0] == "seekjax":
        return line.words[1:]
    return None


def reader_files(folder: Path) -> Path:
    """Write the files of its own that somebody who follows the READMEs has, and return the folder.

    A config, a router score, chats and pairs to learn from, and some text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "configs/tiny.py", folder / "mine.py")
    (folder / "my_file.py").write_text("import jax\n\nscore = jax.nn.sigmoid\n")
    (folder / "my_text").mkdir(exist_ok=True)
    text = "The quick brown fox jumps over the lazy dog.\n" * 40
    for number in range(12):
        (folder / "my_text" / f"{number}.txt").write_text(f"{number}\n{text}")
    (folder / "notes.jsonl").write_text('{"text": "one note"}\n' * 40)

    chat = (
        '{"messages": [{"role": "user", "content": "%d+1"}, '
        '{"role": "assistant", "content": "<think>so</think>%d"}]}\n'
    )
    pair = '{"prompt": "%d+1", "chosen": "%d", "rejected": "no"}\n'
    for name, row in (("chats.jsonl", chat), ("pairs.jsonl", pair)):
        rows = [row % (number, number + 1) for number in range(24)]
        (folder / name).write_text("".join(rows))
    return folder


def small(words: list[str]) -> list[str]:
    """Return the words of a command with what makes it small."""
    name, *rest = words
    if name != "train":
        return [*words, *SMALL_COMMAND.get(name, "").split()]

    config = config_name(rest)
    if isinstance(load_config(config), Workflow) or "--plan" in words:
        return words if "--plan" in words else [*words, "--plan"]
    if not rest or rest[0] != config:
        words = ["train", config, *rest]
    if "--init" not in words:
        words = [*words, *SMALL_MODEL.split()]
    if not any(word.startswith("--mesh") for word in words):
        words = [*words, "--mesh.data", "1"]
    return [*words, *SMALL_RUN.split(), *SMALL_KIND.get(config, "").split()]


def run(line: Line) -> str:
    """Run a line in small, and return what it printed. Raises AssertionError if it fails."""
    printed = io.StringIO()
    sys.stdin = io.StringIO("hello\n")
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            status = main(small(words_of(line)))
        except SystemExit as ended:  # after --help
            status = ended.code
    assert not status, f"{line.place}: {line}\nended with {status}:\n{printed.getvalue()}"
    return printed.getvalue()


def run_server(line: Line) -> str:
    """Run a line that serves until the `curl` lines of its page have been answered."""
    page = line.place.rpartition(":")[0]
    calls = [other for other in command_lines(page) if other.words[0] == "curl"]
    failures = []

    def call():
        address = "http://127.0.0.1:8000/health"
        while not answers(address):
            time.sleep(0.1)
        for other in calls if "--api-key" not in line.words else ():
            called = subprocess.run(other.words, capture_output=True, check=False)
            if called.returncode:
                failures.append(f"{other.place}: {other}")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        return run(line)
    finally:
        thread.join(60)
        assert not failures, failures


def answers(address: str) -> bool:
    """Whether a server answers with 200."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def run_all(folder: Path, part: str) -> None:
    """Run the lines of all pages with `part` in them, each once, in a folder."""
    os.chdir(reader_files(folder))
    sys.path.insert(0, "")
    done = set()
    for page in PAGES:
        lines = split(MADE_BEFORE.get(page, ""), page) + command_lines(page)
        for line in lines:
            words = words_of(line)
            if words is None or words[0] in NEEDS_TRAINING or "--compile" in words:
                continue
            if words[0] == "train" and set(words) & set(PUBLISHED):
                continue
            if str(line) in done or part not in str(line):
                continue
            start = time.monotonic()
            run_server(line) if words[0] == "serve" else run(line)
            print(f"{time.monotonic() - start:5.1f} s  {line.place}: {line}", flush=True)
            done.add(str(line))
        for block in blocks(page):
            if block.language == "python" and part in block.text:
                exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {})


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
