"""Draw docs/chat.svg: `seekjax chat` on a terminal, before and after reinforcement.

    python -m tests.scripts.smoke_addition FOLDER
    python -m tests.scripts.chat_picture FOLDER

The first makes both models: a base that forgets carries, and what became of it when right answers
paid. The second asks both the same sum on a terminal of their own, and draws what they print.
"""

import re
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.terminal import CTRL_D, DONE, ENTER, READY, Terminal

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "chat.svg"
COLUMNS = 76
QUESTION = "68+57="
TYPING = 10.0  # seconds, in which programs are compiled
PROGRESS = re.compile(
    r"\x1b\[\?25l.*?\x1b\[\?25h\r\x1b\[1A\x1b\[2K(compiling: \w+\r\n)?", re.DOTALL
)
MODELS = {"base": "runs/sums", "paid": "runs/carries"}  # folders of the first, and their names here

# Dimmed text is drawn halfway between these two, and must be legible on both pages of GitHub.
THEME = TerminalTheme((24, 28, 34), (222, 226, 230), [(120, 130, 140)] * 8)


def talk(command: list[str], folder: Path) -> str:
    """Return what a terminal shows of a conversation of one question, with its colours."""
    terminal = Terminal()
    words = [sys.executable, "-m", "seekjax.commands.cli", *command[1:]]
    process = terminal.start(words, folder, COLUMNS=str(COLUMNS))

    # one question at the first prompt, and the end of the conversation at the second
    terminal.wait_for(READY)
    time.sleep(TYPING)
    terminal.type(QUESTION + ENTER)
    terminal.wait_for(DONE)
    shown = terminal.wait_for(READY).removesuffix(READY)
    terminal.type(CTRL_D)
    terminal.read_to_end()

    if process.wait():
        sys.exit(f"{' '.join(command)} ends with {process.returncode}:\n{terminal.shown}")
    shown = (
        re.sub(PROGRESS, "", shown).replace("\r\n", "\n").replace("\x1b[0m\x1b[2m", "")
    )  # pieces of one style
    return f"> {QUESTION}\n{shown.rstrip()}"


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
