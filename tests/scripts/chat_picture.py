"""Draw docs/chat.svg: `seekjax chat` on a terminal, before and after reinforcement.

    python -m tests.scripts.smoke_addition FOLDER
    python -m tests.scripts.chat_picture FOLDER

The first makes both models: a base that forgets carries, and what became of it when right answers
paid. The second asks both the same sum on a terminal of their own, and draws what they print.
"""

import os
import pty
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "chat.svg"
COLUMNS = 76
QUESTION = "68+57="
MODELS = {"base": "runs/sums", "paid": "runs/carries"}  # folders of the first, and their names here

# Dimmed text is drawn halfway between these two, and must be legible on both pages of GitHub.
THEME = TerminalTheme((24, 28, 34), (222, 226, 230), [(120, 130, 140)] * 8)


def talk(command: list[str], folder: Path) -> str:
    """Return what a terminal shows of a conversation of one question, with its colours."""
    terminal, end = pty.openpty()
    words = [sys.executable, "-m", "seekjax.commands.cli", *command[1:]]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    process = subprocess.Popen(
        words, stdin=end, stdout=end, stderr=end, env=environment, cwd=folder
    )
    os.close(end)

    # one question at the first prompt, and the end of the conversation at the second
    shown, answers = "", [f"{QUESTION}\n", "\x04"]
    while piece := read(terminal):
        shown += piece
        if answers and shown.endswith("> "):
            os.write(terminal, answers.pop(0).encode())

    if process.wait():
        sys.exit(f"{' '.join(command)} ends with {process.returncode}:\n{shown}")
    shown = shown.replace("\r\n", "\n").replace("\x1b[0m\x1b[2m", "")  # pieces of one style
    return shown.removesuffix("> \n").rstrip()


def read(terminal: int) -> str:
    """Return the next piece that a process writes to its terminal, "" after its end."""
    try:
        return os.read(terminal, 4096).decode()
    except OSError:  # on Linux, the other side is closed
        return ""


def draw(sessions: dict[str, str]) -> str:
    """Return an SVG of a terminal in which the commands and what they show follow each other."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    for number, (command, shown) in enumerate(sessions.items()):
        if number:
            console.print()
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi(shown))
    return console.export_svg(title="the same sum before and after reinforcement", theme=THEME)


def main(folder: Path) -> None:
    sessions = {}
    with tempfile.TemporaryDirectory() as desk:
        (Path(desk) / "runs").mkdir()
        for made, name in MODELS.items():
            (Path(desk) / name).symlink_to((folder / made).resolve())
            command = ["seekjax", "chat", name, "--temperature", "0"]
            talk(command, Path(desk))  # compiles, which is not what the picture is of
            sessions[" ".join(command)] = talk(command, Path(desk))

    PICTURE.write_text(draw(sessions))
    print(f"written: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
