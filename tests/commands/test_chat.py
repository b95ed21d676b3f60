"""The commands as a user meets them, on a run as training leaves it: generate, chat, eval, and what
they say when there is nothing to use."""

import json
import re
import signal
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import jax
import numpy as np
import pytest

from seekjax.commands import chat as terminal
from seekjax.commands import evaluate
from seekjax.commands.chat_commands import COMMANDS
from seekjax.config import Config, DataConfig, TrainConfig
from seekjax.data import read_tokenizer
from seekjax.data.chat import BUILT_IN, compile_chat
from seekjax.data.tokenizer import BOS, EOS
from seekjax.errors import GenerateError
from seekjax.eval.bits import ProgressFile, Totals, pack_rows
from seekjax.generate.generator import Completion
from seekjax.generate.sampling import Sampling
from seekjax.open import open_model
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.fixtures import PLAIN, save_run, tiny_model
from tests.terminal import CTRL_C, CTRL_D, ENTER, READY, UP, Terminal

CONFIG = Config(
    model=tiny_model(heads=4, context=256, layers=1, dense_layers=0),
    data=DataConfig(tokenizer="byte", sequence=32),
    mesh=MeshConfig(data=1),
    train=TrainConfig(batch=8),
    kernel=PLAIN,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(run):
    return open_model(run).tokenizer


@pytest.mark.slow
def test_generate_streams_and_ends_with_its_speed(run, command):
    status, out, err = command(
        "generate", run, "--prompt", "def ", "--max-new", 24, "--seed", 3, "--draft", "True"
    )
    assert status == 0
    assert out.startswith("def ")
    assert "tokens/s" not in out
    assert re.match(
        r"\d+ tokens, [\d.]+ tokens/s, the first after [\d.]+ s; draft accepted \d+%, "
        r"[12]\.\d\d tokens per step\n$",
        err,
    )
    status, again, _ = command("generate", run, "--prompt", "def ", "x", "--max-new", 1)
    assert status == 0
    assert again.startswith("def ")
    assert again.count("\n--\n") == 2
    assert "draft" not in again


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["."], "holds no model"),
        (["RUN", "--prompt", "x" * 300], "leaves no room in the model's context of 256"),
        (["RUN", "--prompt", "caf\udce9" * 90], "prompt 0 has 541 tokens"),  # no UTF-8
        (["RUN", "--mesh.tensor", "16"], "asks for 16 devices"),
        (
            ["RUN", "--mesh.tensor", "8"],
            "the model's heads is 4, which this mesh cannot split 8 ways",
        ),
    ],
)
def test_bad_input_is_one_sentence(run, command, argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command("generate", *(run if word == "RUN" else word for word in argv))
    assert status == 2
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("top-p", "2", "top_p is 2.0: it must be above 0"),
        ("max-new", "3000000000", "max_new is 3000000000: it must be at least 1 and below"),
        ("seed", "-1", "seed is -1: it must be from 0 to below 2^63"),
        ("stop-ids", "4294967296", "stop_ids is (4294967296,): it must be ids from 0"),
    ],
)
def test_a_setting_that_means_nothing_is_told_by_its_name(
    option, value, says, run, command, capsys
):
    with pytest.raises(SystemExit) as exit:
        command("generate", run, f"--{option}", value)
    assert exit.value.code == 2
    assert says in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sequence", 0], "sequence is 0: it must be at least 1"),
        (["--batch", -1], "batch is -1: it must be at least 1"),
        (["--documents", -1], "documents is -1: it must be at least 0"),
        ([], "it has no document with text"),
    ],
)
def test_an_evaluation_of_nothing_is_refused(options, says, run, command, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    status, _, err = command("eval", run, "--data", tmp_path / "empty.txt", *options)
    assert status == 2
    assert says in err


def test_a_long_evaluation_shows_how_far_it_has_come(tokenizer):
    documents = evaluate.Encoded(["abcd", "efgh"], 2, tokenizer)
    shares = []
    for done, _ in enumerate(pack_rows(documents, tokenizer.begin, 2), 1):
        shares.append(documents.share(min(8, 2 * done)))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.25, 1.0)


def test_figures_are_measured_where_no_progress_can_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    record = ProgressFile(tmp_path / "file" / "eval.json", {})
    for done in (False, True):
        record.save(Totals(1, 1.0, 1, 1), done)
    note = capsys.readouterr().err
    assert note.startswith(f"note: {tmp_path / 'file' / 'eval.json'} cannot be written")
    assert note.count("\n") == 1


class Scripted:
    """Stands for a Generator: writes what it is told to, one piece per device call, a signal being
    one that arrives then."""

    def __init__(self, *answers, context=1000, finish_reason="stop"):
        self.answers, self.prompts = list(answers), []
        self.context, self.finish_reason = context, finish_reason

    def stream(self, prompts, sampling, spell):
        self.prompts.append(spell(prompts[0]))
        pieces = self.answers.pop(0)
        row = Completion([0] * len(pieces), finish_reason=self.finish_reason)

        class Writing:
            completions = (row,)

            def __iter__(self):
                for piece in pieces:
                    if isinstance(piece, signal.Signals):
                        signal.raise_signal(piece)
                        piece = ""
                    row.text = type("Text", (), {"take_new": lambda _, piece=piece: piece})()
                    yield [row]

            def report(self):
                return "5 tokens"

        return Writing()


def test_a_conversation(tokenizer, capsys):
    questions = iter(["Hi", "", KeyboardInterrupt, "More", "And?"])

    def ask(prompt):
        if (question := next(questions, EOFError)) in (KeyboardInterrupt, EOFError):
            raise question
        return question

    generator = Scripted(
        ["<thi", "nk>\nhm", "</think>\n", "\nHello"],
        ["Well, ", signal.SIGINT, "never"],
        ["<think>no", signal.SIGINT],
    )
    messages = []
    terminal.converse(generator, tokenizer, compile_chat(BUILT_IN["v3"]), Sampling(), messages, ask)
    assert [m["content"] for m in messages if m["role"] == "assistant"] == [
        "<think>\nhm</think>\n\nHello",
        "Well, ",
        "<think>no</think>",
    ]
    assert generator.prompts == [
        "Hi",
        "Hi\n\nHelloMore",
        "Hi\n\nHelloMoreWell, And?",
    ]  # what special tokens surround; no thinking of before
    out, err = capsys.readouterr()
    assert "Ctrl-D ends" in err
    assert err.count("stopped; 5 tokens") == 2
    assert "5 tokens" not in out
    assert "<think>" not in out
    assert "never" not in out


def test_a_question_that_cannot_be_answered_is_left_out(tokenizer, capsys):
    """The conversation goes on, and what is typed is text."""
    generator = Scripted(["one"], ["two"])
    stream = generator.stream

    def answering(prompts, sampling, spell):
        assert tokenizer.user not in prompts[0][2:]
        if len(prompts[0]) > 40:
            raise GenerateError("prompt 0 has 99 tokens and leaves no room: shorten it.")
        return stream(prompts, sampling, spell)

    generator.stream = answering
    questions = iter(["a", "x" * 99, "<｜User｜>", "caf\udce9"])

    def ask(prompt):
        question = next(questions, None)
        if question is None:
            raise EOFError
        return question

    messages = []
    form = compile_chat(
        "{% for m in messages[-1:] %}{{ bos_token }}<｜User｜>{{ m.content }}{% endfor %}"
    )
    generator.answers += [["three"]]
    terminal.converse(generator, tokenizer, form, Sampling(), messages, ask)
    assert [m["content"] for m in messages] == [
        "a",
        "one",
        "<｜User｜>",
        "two",
        "caf\ufffd",
        "three",
    ]
    assert "shorten it. The question is left out." in capsys.readouterr().err


def talk(generator, tokenizer, *lines):
    """The messages after a conversation of these lines on a terminal."""
    lines, messages = iter(lines), []

    def ask(prompt):
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    form = compile_chat(BUILT_IN["v3"])
    terminal.converse(generator, tokenizer, form, Sampling(), messages, ask, commands=True)
    return [(message["role"], message["content"]) for message in messages]


def test_commands_change_the_conversation(tokenizer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = Scripted(["one"], ["two"], ["three"], ["four"])
    messages = talk(
        generator,
        tokenizer,
        *("/system", "/system Be brief.", "a", "/system", "b", "/undo", "/save talk.jsonl"),
        *("/reset", "/undo", "c", "/system -", "/save talk.jsonl", "/sav", "/save no/such/folder"),
        *(" /usr", "/exit", "never"),
    )
    assert messages == [
        ("user", "c"),
        ("assistant", "three"),
        ("user", " /usr"),
        ("assistant", "four"),
    ]
    assert generator.prompts == ["Be brief.a", "Be brief.aoneb", "Be brief.c", "cthree /usr"]
    [line] = (tmp_path / "talk.jsonl").read_text().splitlines()
    roles = [message["role"] for message in json.loads(line)["messages"]]
    assert roles == ["system", "user", "assistant"]

    notices = [line for line in capsys.readouterr().err.splitlines() if line != "5 tokens"]
    assert notices == [
        "(there is no system message)",
        "(the system message is set)",
        "Be brief.",
        "(taken back: b)",
        "(saved: talk.jsonl)",
        "(a new conversation)",
        "there is no question to take back.",
        "(the system message is removed)",
        "there is a file talk.jsonl already: name another.",
        "there is no command /sav: did you mean '/save'? /help lists them.",
        "no/such/folder cannot be written (No such file or directory): name another.",
    ]


def test_help_lists_every_command(tokenizer, capsys):
    assert not talk(Scripted(), tokenizer, "/help")
    text = capsys.readouterr().err
    assert all(f"\n{name} " in f"\n{text}" for name in COMMANDS)
    assert "Ctrl-C stops an answer" in text


def test_a_conversation_that_fills_the_context_goes_on(tokenizer, capsys):
    generator = Scripted(["one"], ["two"], context=30, finish_reason="length")
    messages = talk(generator, tokenizer, "hello", "x" * 30, "/reset", "bye")
    assert messages == [("user", "bye"), ("assistant", "two")]
    notes = capsys.readouterr().err
    assert "the model's context holds 30: shorten it, or begin another. The question is" in notes
    assert "cut off where the model's context ends; 5 tokens" in notes


def test_thinking_is_dimmed_and_apart(tokenizer, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = type("Terminal", (StringIO,), {"isatty": lambda self: True})()
    text = terminal.answer(
        Scripted(["hm", "</think>\n\n", "42"]),
        tokenizer,
        compile_chat(BUILT_IN["r1"]),
        Sampling(),
        [{"role": "user", "content": "?"}],
        out,
    )
    assert text == "<think>hm</think>\n\n42"
    assert out.getvalue() == "\x1b[2mhm\x1b[0m\n\n42\n\x1b[2m5 tokens\x1b[0m\n"


def test_a_terminal_executes_nothing_that_a_model_generates(tokenizer):
    """The conversation keeps the text as it is; the screen shows control characters by number."""
    attack = "\x1b]0;owned\x07\x1b[2J\u202e\r\b"
    out = StringIO()
    text = terminal.answer(
        Scripted(["line\n\tok ", attack, "👩\u200d🚀"]),
        tokenizer,
        compile_chat(BUILT_IN["v3"]),
        Sampling(),
        [{"role": "user", "content": "?"}],
        out,
    )
    assert text == f"line\n\tok {attack}👩\u200d🚀"
    shown = r"\x1b]0;owned\x07\x1b[2J\u202e\r\x08"
    assert out.getvalue() == f"line\n\tok {shown}👩\u200d🚀\n5 tokens\n"


@pytest.mark.slow
def test_lines_of_a_pipe_are_answered_and_answers_alone_are_printed(run, command, monkeypatch):
    lines = ["hello", "x" * 300, "/help"]
    monkeypatch.setattr("sys.stdin", StringIO("\n".join(lines)))
    status, out, err = command("chat", run, "--max-new", 9, "--temperature", 0)
    assert status == 0
    reports = re.findall(r"cut off at --max-new; 9 tokens, [\d.]+ tokens/s, the first", err)
    assert len(reports) == 2
    assert "holds 256: shorten it, or begin another. The question is left out." in err
    assert err.count("> ") == 4
    assert out.count("\n") >= 2
    assert "tokens/s" not in out
    assert "> " not in out


# `seekjax chat` in a process of its own; its model writes without end, word by word
ENDLESS = """
import sys, time
from contextlib import contextmanager
from seekjax.commands import chat, cli
from seekjax.data import read_tokenizer
from seekjax.open import OpenedModel
from tests.commands.test_chat import Scripted

class Endless(list):
    def __iter__(self):
        while True:
            time.sleep(0.01)
            yield "word "

@contextmanager
def conversation(options, background):
    folder = options.model.folder
    opened = OpenedModel(folder, None, None, {}, read_tokenizer(folder, 320))
    yield opened, Scripted(*3 * [Endless()])

chat.conversation = conversation
sys.exit(cli.main(["chat", sys.argv[1]]))
"""


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_ctrl_d_ends_on_a_real_terminal(run, tmp_path):
    console = Terminal()
    process = console.start(
        [sys.executable, "-c", ENDLESS, str(run)],
        cwd=Path(__file__).parents[2],
        SEEKJAX_CACHE=str(tmp_path),
    )
    for question in ("hello" + ENTER, UP + ENTER):
        console.wait_for(READY)
        console.type(question)
        console.wait_for("word word word")
        console.type(CTRL_C)
        console.wait_for("stopped; 5 tokens")

    # Ctrl-C at an empty prompt says how to end
    console.wait_for(READY)
    console.type(CTRL_C)
    console.wait_for("(Ctrl-D ends)")
    console.wait_for(READY)
    console.type(CTRL_D)
    console.read_to_end()
    assert process.wait() == 0
    assert console.shown.count("hello") >= 2
    assert "Traceback" not in console.shown


def uncached_bits(run, text: str, sequence: int) -> float:
    """Bits per byte by rows of the plain forward pass."""
    from seekjax.model.transformer import Transformer, logits

    opened = open_model(run)
    ids, total = [opened.begin, *opened.tokenizer.encode(text)], 0.0
    forward = jax.jit(
        lambda tokens: jax.nn.log_softmax(
            logits(Transformer(opened.model, opened.kernel).apply(opened.variables, tokens))
        )
    )
    for start in range(0, len(ids) - 1, sequence):
        row = np.array(ids[start : start + sequence + 1])
        padded = np.pad(row, (0, sequence + 1 - len(row)))
        total -= np.asarray(
            forward(padded[None, :-1])[0, np.arange(len(row) - 1), row[1:]], np.float64
        ).sum()
    return total / np.log(2) / len(text.encode())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_eval_is_the_same_on_any_mesh_batch_and_after_an_interruption(
    run, command, tmp_path, monkeypatch
):
    from seekjax.commands import evaluate as evaluation
    from seekjax.eval import bits

    text = "".join(f"line {n}: naïve text\n" for n in range(30))
    (tmp_path / "text.txt").write_text(text)
    asked = evaluation.Eval(run, str(tmp_path / "text.txt"), sequence=40, batch=3)
    measured = {}
    for name, mesh, batch in (
        ("one", MeshConfig(data=1), 3),
        ("mesh and another batch", MeshConfig(data=2, expert=2, tensor=2), 8),
    ):
        with use_mesh(mesh):
            measured[name], _ = evaluation.evaluate_text(
                replace(asked, batch=batch, mesh=mesh, progress=tmp_path / f"{name}.json")
            )
    assert {sums.bytes for sums in measured.values()} == {len(text.encode())}
    assert len({sums.tokens for sums in measured.values()}) == 1
    exact = uncached_bits(run, text, 40)
    for name, sums in measured.items():
        assert abs(sums.bits_per_byte / exact - 1) < 1e-6, name

    def twice(*arguments):  # then something pulls the plug
        for count, sums in enumerate(measure(*arguments)):
            if count == 2:
                raise KeyboardInterrupt
            yield sums

    measure = bits.measure
    monkeypatch.setattr(evaluation, "measure", twice)
    monkeypatch.setattr(evaluation, "SAVE_EVERY", 0.0)
    with use_mesh(asked.mesh), pytest.raises(KeyboardInterrupt):
        evaluation.evaluate_text(asked)
    assert json.loads((run / "eval-text.json").read_text())["sums"]["rows"] == 6
    monkeypatch.setattr(evaluation, "measure", measure)
    with use_mesh(asked.mesh):
        assert evaluation.evaluate_text(asked)[0] == measured["one"]
    status, out, _ = command("eval", run, "--data", tmp_path / "text.txt", "--sequence", 40)
    assert status == 0
    assert f"{measured['one'].bits_per_byte:.4f} bits/byte" in out
    assert "measured before" in out
    (run / "eval-text.json").write_text("{}")
    status, _, err = command("eval", run, "--data", tmp_path / "text.txt")
    assert status == 2
    assert "delete it" in err


def test_where_a_text_begins(run):
    opened = open_model(run)
    assert opened.begin == opened.tokenizer.eos
    assert opened.kernel == CONFIG.kernel
    for named, begin in ((BOS, "bos"), ({"content": BOS}, "bos"), (EOS, "eos"), (None, "eos")):
        (run / "tokenizer_config.json").write_text(json.dumps({"bos_token": named}))
        read = read_tokenizer(run, CONFIG.model.vocab)
        assert opened._replace(tokenizer=read).begin == getattr(opened.tokenizer, begin)
    (run / "tokenizer_config.json").unlink()
