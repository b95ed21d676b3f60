"""Conversations become samples whose prompts are the rollouts' own, whose answers all are learnt
once with their end, and whose faults are named."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import DataConfig, SftConfig
from seekjax.data import DataError, load_tokenizer
from seekjax.data.chat import BUILT_IN, compile_chat, load_chat
from seekjax.data.template_settings import with_defaults
from seekjax.data.text_ends import TextEnds
from seekjax.data.tokenizer import EOS
from seekjax.post.samples import corpus
from seekjax.post.samples.chats import question_key, split_held_out
from seekjax.post.samples.corpus import pack_rows
from seekjax.post.samples.jsonl import open_rows
from seekjax.post.samples.template import ChatFormat
from tests.fixtures import write_rows

TOKENIZER = load_tokenizer(DataConfig(tokenizer="byte"), 320, None)
FORMS = {name: ChatFormat(compile_chat(source), TOKENIZER) for name, source in BUILT_IN.items()}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "<think>\nhm</think>2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\noh</think>4"},
]
PLAIN = [{**message, "content": message["content"].rpartition("</think>")[2]} for message in TALK]


def spelled(tokens):
    return TOKENIZER._backend.decode(list(map(int, tokens)), skip_special_tokens=False)


def learnt(sample):
    """The runs of tokens that are trained on, as text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.trained, [0]])))
    return [spelled(sample.tokens[a:b]) for a, b in edges.reshape(-1, 2)]


def load_samples(chat_format, sequence=200, **sft):
    data = DataConfig(tokenizer="byte", sequence=sequence, held_out=0.2)
    return corpus.load_samples(SftConfig(**sft), data, 0, chat_format, "sft")


def write(folder, *rows):
    return str(write_rows(folder / "rows.jsonl", rows))


def test_thinking_is_learnt_though_templates_drop_it_from_the_past():
    END, A = "<｜end▁of▁sentence｜>", "<｜Assistant｜>"
    one, two = FORMS["v3"].samples(TALK)
    assert learnt(one) == ["<think>\nhm</think>2" + END]
    assert learnt(two) == ["<think>\noh</think>4" + END]
    assert f"{A}2{END}" in spelled(two.tokens)
    assert "hm" not in spelled(two.tokens)
    both = FORMS["r1"].samples(TALK)
    assert [learnt(sample) for sample in both] == [["hm</think>2" + END], ["oh</think>4" + END]]
    assert all(f"{A}<think>\n" in spelled(sample.tokens) for sample in both)
    [whole] = FORMS["v2"].samples(TALK)  # which drops nothing
    assert learnt(whole) == [" <think>\nhm</think>2" + END, " <think>\noh</think>4" + END]


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_answers_without_thinking_share_a_sample_and_the_text_is_the_templates(name):
    [sample] = FORMS[name].samples(PLAIN)
    assert np.array_equal(
        sample.tokens,
        TOKENIZER.encode(FORMS[name].chat.render(PLAIN, generation_prompt=False), special=True),
    )
    assert [text.strip() for text in learnt(sample)] == [
        "2<｜end▁of▁sentence｜>",
        "4<｜end▁of▁sentence｜>",
    ]


def test_an_answer_of_weight_0_is_read_and_not_learnt():
    [sample] = FORMS["v3"].samples(PLAIN, learnt=[True, True, False, True, True])
    assert learnt(sample) == ["4<｜end▁of▁sentence｜>"]
    assert "2<｜end▁of▁sentence｜>" in spelled(sample.tokens)


text = st.text(
    st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=12
).filter(lambda text: text.strip())
turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), text, st.none() | text), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(turns, text, st.sampled_from(list(FORMS)))
def test_every_answer_is_learnt_once_behind_the_prompt_a_rollout_would_have(history, last, name):
    form = FORMS[name]
    messages = [
        {
            "role": role,
            "content": f"<think>{thought or '.'}</think>{said}"
            if role == "assistant" and (thought or name == "r1")
            else said,
        }
        for role, said, thought in [("user", "?", None), *history, ("assistant", last, "so")]
    ]
    samples = form.samples(messages)
    wanted = {
        i: (form.prompt(messages[:i]), form.answer(message["content"]))
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    }
    for prompt, answer in wanted.values():
        whole = np.concatenate([prompt, answer])
        assert answer[-1] == TOKENIZER.eos
        assert any(
            np.array_equal(s.tokens[: len(whole)], whole)
            and s.trained[len(prompt) : len(whole)].all()
            for s in samples
        )
    assert sum(sample.trained.sum() for sample in samples) == sum(
        len(answer) for _, answer in wanted.values()
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2 is a JSON list"),
        ("[" * 9000, "line 2 is JSON that cannot be read"),
        ("1" * 5000, "line 2 is JSON that cannot be read"),
        ({"text": "x"}, "line 2 has no conversation"),
        ({"messages": []}, "line 2 has no conversation"),
        ({"messages": ["hi"]}, "message 1, has no role"),
        ({"messages": [{"role": "ipython", "content": "x"}]}, "message 1, has the role 'ipython'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1, is the output of a tool"),
        ({"messages": [{"role": "user"}]}, "the user's content is missing"),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "the user's content is a list, not text",
        ),
        ({"messages": [{"role": "user", "content": " \n"}]}, "the user's content is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no answer of the assistant"),
        (
            {"messages": [{"role": "user", "content": "a<｜Assistant｜>b"}]},
            "spells <｜Assistant｜>",
        ),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half a character"),
        (
            {
                "messages": [
                    {"role": "user", "content": "x" * 300},
                    {"role": "assistant", "content": "y"},
                ]
            },
            "line 2 has 305 tokens, and data.sequence 200",
        ),
    ],
)
def test_a_faulty_row_is_named_with_its_line(tmp_path, row, says):
    file = write(tmp_path, {"messages": PLAIN}, row)
    with pytest.raises(DataError) as error:
        load_samples(FORMS["v3"], chats=(file,))
    assert says in str(error.value)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_faulty_settings_are_named(tmp_path):
    file = write(tmp_path, {"messages": PLAIN})
    for post, says in [
        ({}, "nothing to learn from"),
        ({"chats": ("no.jsonl",)}, "is not there"),
        ({"chats": (str(tmp_path),)}, "is not a .jsonl file"),
        ({"chats": (file, file)}, "names a source twice"),
        ({"chats": (file,), "weights": (1.0, 2.0)}, "sft.weights"),
        ({"chats": (file,), "weights": (0.0,)}, "positive"),
        ({"tasks": ("contdown",)}, "countdown"),
        ({"tasks": ("addition:77",)}, "levels"),
    ]:
        with pytest.raises(DataError, match=says):
            load_samples(FORMS["v3"], **post)
    with pytest.raises(DataError, match=r"line 1: .*begins every answer with <think>"):
        load_samples(FORMS["r1"], chats=(file,))
    with pytest.raises(DataError, match="drop-long"):
        load_samples(FORMS["v3"], sequence=40, tasks=("addition:6",))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}",
            "no generation prompt",
        ),
        (
            "{% for m in messages %}{{ m['content'] }}!{% endfor %}{% if "
            "add_generation_prompt %}A:{% endif %}",
            "does not write an answer behind",
        ),
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% else "
            "%}A:{{ m['content'] }}.{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}A:{% endif %}",
            "does not end an answer",
        ),
        (
            "{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}{% if "
            "add_generation_prompt %}A:{% endif %}",
            "fails on this conversation",
        ),
    ],
)
def test_a_template_that_cannot_be_learnt_is_refused(source, says):
    with pytest.raises(DataError, match=says):
        ChatFormat(compile_chat(source), TOKENIZER)


# As V3.1's: the switch `thinking` decides what the prompt ends with, past turns have no thinking.
SWITCHED = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}{% else %}<｜Assistant｜></think>"
    "{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>"
    "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)


def switched(*settings):
    return ChatFormat(compile_chat(with_defaults(SWITCHED, settings)), TOKENIZER)


def test_a_template_with_a_switch_trains_thinking_where_the_prompt_opens_it():
    one, two = switched("thinking=true").samples(TALK)
    assert learnt(one) == [f"\nhm</think>2{EOS}"]
    assert spelled(two.tokens).endswith(
        f"</think>2{EOS}<｜User｜>2+2?<｜Assistant｜><think>\noh</think>4{EOS}"
    )
    with pytest.raises(DataError, match=r"begins every answer with <think>.*thinking=false"):
        switched("thinking=True").samples(PLAIN)


def test_a_template_with_a_switch_refuses_thinking_where_the_prompt_closes_it():
    [whole] = switched().samples(PLAIN)
    assert learnt(whole) == [f"2{EOS}", f"4{EOS}"]
    assert switched("thinking=false").answer("<think>\n\n</think>\n\n2").tolist() == [
        *TOKENIZER.encode("2"),
        TOKENIZER.eos,
    ]
    with pytest.raises(
        DataError, match="ends every prompt with </think>, and this answer has thinking"
    ):
        switched().samples(TALK)


def test_settings_are_saved_with_the_template(tmp_path):
    chat = switched("thinking=true").chat
    chat.save(tmp_path)
    again = load_chat(tmp_path, TOKENIZER)
    assert again.render(TALK[:2]).endswith("<think>")
    assert again.render(TALK[:2], thinking=False).endswith("</think>")
    # a setting goes before the one that was saved
    assert (
        load_chat(tmp_path, TOKENIZER, "auto", ["thinking=no"]).render(TALK[:2]).endswith("<think>")
    )
    assert (
        load_chat(tmp_path, TOKENIZER, "auto", ["thinking=false"])
        .render(TALK[:2])
        .endswith("</think>")
    )


@pytest.mark.parametrize(
    ("setting", "shown"),
    [("a=true", "True"), ("a=3", "3"), ("a=0.5", "0.5"), ("a=None", "None"), ('a="é\n', '"é\n')],
)
def test_a_setting_has_the_value_that_it_looks_like(setting, shown):
    source = "\n  {{ a }}"
    assert compile_chat(with_defaults(source, [setting])).render(TALK) == f"\n  {shown}"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("thinkng=true", "has no setting 'thinkng'"),
        ("thinking", "write NAME=VALUE"),
        ("messages=1", "write NAME=VALUE"),
        ("a b=1", "write NAME=VALUE"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(setting, says):
    with pytest.raises(DataError, match=says):
        with_defaults(SWITCHED, [setting])


def test_an_answer_ends_with_the_end_that_its_template_writes():
    tokenizer = load_tokenizer(DataConfig(tokenizer="byte"), 320, None)
    tokenizer.ends = TextEnds(tokenizer.bos, (tokenizer.eos, tokenizer.assistant))
    source = BUILT_IN["v2"].replace("eos_token", "'<｜Assistant｜>'")
    [whole] = ChatFormat(compile_chat(source), tokenizer).samples(TALK)
    assert whole.tokens[-1] == tokenizer.assistant


def test_long_samples_are_left_out_and_counted_when_asked(tmp_path):
    file = write(
        tmp_path,
        *(
            {
                "messages": [
                    {"role": "user", "content": "x" * n},
                    {"role": "assistant", "content": "y"},
                ]
            }
            for n in (5, 6, 7, 300)
        ),
    )
    [source] = load_samples(FORMS["v3"], chats=(file,), drop_long=True).sources
    assert len(source.train) + len(source.held_out) == 3
    assert source.files[0]["too_long"] == 1
    [source] = load_samples(FORMS["v3"], sequence=60, tasks=("addition",), drop_long=True).sources
    assert all(len(source.train[i]["tokens"]) <= 61 for i in range(50))


def test_answers_to_one_question_stay_on_one_side(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": str(i % 10)},
                {"role": "assistant", "content": str(i)},
            ]
        }
        for i in range(40)
    ]
    [source] = load_samples(FORMS["v3"], chats=(write(tmp_path, *rows),)).sources
    sides = [
        {spelled(side[i]["tokens"]).split("<｜User｜>")[1][0] for i in range(len(side))}
        for side in (source.train, source.held_out)
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.05, 0.5, 0.99]),
)
def test_the_split_keeps_copies_together_and_both_sides_filled(keys, share):
    side = split_held_out(keys, share)
    assert all(a == b for x, a in zip(keys, side) for y, b in zip(keys, side) if x == y)
    assert not side.all()
    assert side.any() == (share > 0 and len(set(keys)) > 1)


@pytest.mark.parametrize("language", ["en", "zh", "mixed"])
def test_solved_problems_are_the_tasks_own_and_the_sides_disjoint(language):
    [source] = load_samples(FORMS["v3"], tasks=("countdown:1",), language=language).sources
    sides = [
        [spelled(side[i]["tokens"]) for i in range(40)] for side in (source.train, source.held_out)
    ]
    questions = [
        {text.split("<｜User｜>")[1].split("<｜Assistant｜>")[0] for text in side} for side in sides
    ]
    assert not questions[0] & questions[1]
    assert all("<think>" in text and "<answer>" in text for text in sides[0])
    chinese = np.mean(["对" in text for text in sides[0]])
    assert chinese == {"en": 0, "zh": 1}.get(language, chinese)
    assert language != "mixed" or 0.2 < chinese < 0.8
    assert sides[0] == [
        spelled(source.train[i]["tokens"]) for i in range(40)
    ]  # a function of the index alone


def test_rows_of_the_held_out_side_are_whole_and_end_in_padding():
    samples = [
        {"tokens": np.full(n, n, np.int32), "trained": np.arange(n) > 1} for n in (3, 4, 5, 6, 7)
    ]
    rows = pack_rows(samples, 3, 10, 0)
    assert len(rows) <= 3
    assert all(len(x) == 10 for row in rows for x in row.values())
    for row in rows:
        for segment in set(row["segments"]) - {0}:
            [n] = set(row["tokens"][row["segments"] == segment])
            assert (row["segments"] == segment).sum() == n
            assert row["trained"][row["segments"] == segment].sum() == n - 2
        assert not row["trained"][row["segments"] == 0].any()


def test_what_is_asked_is_all_before_the_first_answer(tmp_path):
    assert question_key(TALK) == question_key(PLAIN) != question_key(TALK[1:])
    assert open_rows(write(tmp_path, "", {"a": 1}), "sft.chats").name_of(0).endswith("line 2")


def test_compressed_rows_are_read_and_unread_keys_named(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": PLAIN, "id": 1}])
    packed = tmp_path / "rows.JSONL.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    corpus = load_samples(FORMS["v3"], chats=(str(packed),))
    assert corpus.left_out()[0].endswith("how often each occurs: id 1")
    assert len(corpus.sources[0].train) == 1
