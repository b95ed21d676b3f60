"""Every format of a row becomes the same turns; what cannot be honoured is refused or named."""

from collections import Counter

import pytest

from seekjax.data import DataError
from seekjax.post.samples.row import describe_unread, read_conversation, read_pair

QUESTION = {"role": "user", "content": "1+1?"}
ANSWER = {"role": "assistant", "content": "2"}
TURNS = [("system", "Be brief.", True), ("user", "1+1?", True), ("assistant", "2", True)]


def turns_of(record):
    return [turn[:3] for turn in read_conversation(record, "a line", Counter()).turns]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER]},
        {"messages": [{"role": "developer", "content": "Be brief."}, QUESTION, ANSWER]},
        {"system": "Be brief.", "messages": [QUESTION, ANSWER]},
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "1+1?"},
                {"from": "gpt", "value": "2"},
            ]
        },
        {"system": "Be brief.", "instruction": "1+1?", "input": "", "output": "2", "history": []},
        {
            "system": "Be brief.",
            "tools": [],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
                {**ANSWER, "weight": 1, "tool_calls": None, "reasoning_content": ""},
            ],
        },
    ],
)
def test_every_format_becomes_the_same_turns(record):
    assert turns_of(record) == TURNS


def test_the_input_and_the_history_of_alpaca_are_read():
    record = {"instruction": "Add.", "input": "1+1", "output": "2", "history": [["a", "b"]]}
    assert turns_of(record) == [
        ("user", "a", True),
        ("assistant", "b", True),
        ("user", "Add.\n1+1", True),
        ("assistant", "2", True),
    ]


def test_thinking_and_weights_are_honoured():
    answer = {**ANSWER, "reasoning_content": "one more", "weight": 0}
    turns = turns_of({"messages": [QUESTION, answer, QUESTION, ANSWER]})
    assert turns[1] == ("assistant", "<think>one more</think>2", False)
    assert turns[3] == ("assistant", "2", True)


def test_other_keys_are_counted_and_named():
    unread = Counter()
    for _ in range(2):
        read_conversation(
            {"id": 7, "task": "x", "messages": [{**QUESTION, "name": "Ann"}, ANSWER]},
            "a line",
            unread,
        )
    assert describe_unread("a.jsonl", unread) == [
        "a.jsonl: keys that are not read, and how often each occurs: id 2, name 2"
    ]
    assert describe_unread("a.jsonl", Counter()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"functions": [{"name": "f"}]}, 'has functions: it is the older form of "tools"'),
        ({"images": ["x.png"]}, "has images: only text"),
        ({"instruction": "x"}, "has messages and instruction: keep one of them"),
        ({"system": "a", "messages": [{"role": "system", "content": "b"}, ANSWER]}, "keep one"),
        ({"messages": [QUESTION, {**ANSWER, "weight": 0}]}, "weight 0 at every answer"),
        ({"messages": [QUESTION, {**ANSWER, "weight": 0.5}]}, "has the weight 0.5"),
        ({"messages": [{**QUESTION, "reasoning_content": "x"}, ANSWER]}, "belongs to an answer"),
        (
            {
                "messages": [
                    QUESTION,
                    {"role": "assistant", "content": "<think>a</think>b", "reasoning_content": "c"},
                ]
            },
            "an answer without <think> in it",
        ),
    ],
)
def test_what_changes_the_meaning_is_refused(change, says):
    with pytest.raises(DataError, match="^a line.*" + says) as raised:
        read_conversation({"messages": [QUESTION, ANSWER], **change}, "a line", Counter())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "1+1?"},
        {"prompt": [QUESTION]},
        {"messages": [QUESTION]},
        {"conversations": [{"from": "human", "value": "1+1?"}]},
        {"instruction": "1+1?"},
    ],
)
def test_a_pair_has_a_system_text_and_answers_in_either_form(prompt):
    record = {**prompt, "system": "Be brief.", "chosen": [ANSWER], "rejected": "3"}
    given, chosen, rejected = read_pair(record, "a line", Counter())
    assert [turn[:3] for turn in given.turns] == TURNS[:2]
    assert (chosen.content, rejected.content) == ("2", "3")
