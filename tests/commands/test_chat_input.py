"""The line editor of `seekjax chat` on a pseudo-terminal, and its commands."""

import os
import threading
from contextlib import ExitStack

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_input
from prompt_toolkit.output.vt100 import Vt100_Output

from seekjax.commands.chat_commands import COMMANDS
from seekjax.commands.chat_input import KeptHistory, LineEditor
from tests.terminal import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    DOWN,
    ENTER,
    LEFT,
    READY,
    TAB,
    UP,
    Terminal,
)


@pytest.fixture
def questions():
    """A function that types keys at one editor after another prompt, and returns what it read."""
    with ExitStack() as files:

        def read(*typed, history=None):
            terminal = Terminal()
            end = terminal.program_side
            editor = LineEditor(
                COMMANDS,
                history,
                create_input(files.enter_context(os.fdopen(os.dup(end)))),
                Vt100_Output(
                    files.enter_context(os.fdopen(end, "w")), lambda: Size(24, 80), enable_cpr=False
                ),
            )

            def type_all():
                for keys in typed:
                    terminal.wait_for(READY, 20)
                    terminal.type(keys)

            person = threading.Thread(target=type_all)
            person.start()
            answers = []
            for _ in typed:
                try:
                    answers.append(editor("> "))
                except (EOFError, KeyboardInterrupt) as error:
                    answers.append(type(error))
            person.join()
            return answers

        yield read


def test_lines_are_edited_and_called_back(questions):
    typed = ["wrld" + 3 * LEFT + "o" + ENTER, "again" + ENTER, 2 * UP + "!" + ENTER]
    assert questions(*typed) == ["world", "again", "world!"]
    assert questions("a" + ENTER, "b" + UP + DOWN + "c" + ENTER) == ["a", "bc"]


def test_a_question_of_several_lines(questions):
    typed = "one\\" + ENTER + "two" + ALT_ENTER + "three" + ENTER
    pasted = "\x1b[200~def f():\n    pass\n\x1b[201~" + ENTER
    assert questions(typed, UP + ENTER, pasted) == [
        "one\ntwo\nthree",
        "one\ntwo\nthree",
        "def f():\n    pass\n",
    ]


def test_commands_and_files_are_completed(questions, tmp_path):
    (tmp_path / "talk.jsonl").write_text("")
    typed = ["/un" + TAB + ENTER, f"/save {tmp_path}/ta" + TAB + ENTER]
    assert questions(*typed) == ["/undo", f"/save {tmp_path}/talk.jsonl"]


def test_control_c_gives_a_question_up_and_control_d_ends(questions):
    assert questions("half" + CTRL_C, "x" + ENTER, CTRL_D) == [KeyboardInterrupt, "x", EOFError]


def test_history_of_earlier_conversations(questions, tmp_path):
    file = tmp_path / "history"
    assert questions("caf\u00e9" + ENTER, history=KeptHistory(str(file))) == ["caf\u00e9"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert questions(UP + ENTER, history=KeptHistory(str(file))) == ["caf\u00e9"]

    # a folder in its place costs the history alone
    assert questions("x" + ENTER, history=KeptHistory(str(tmp_path))) == ["x"]
