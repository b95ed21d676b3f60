"""Every name of a config is looked up before anything is read or made."""

from dataclasses import replace

import pytest

from seekjax.commands.arguments import parse
from seekjax.config import Config, GrpoConfig, Objective, SftConfig
from seekjax.config.fields import named_choices
from seekjax.errors import SeekjaxError
from seekjax.post.names import FIND, check_names
from tests.config.test_fields import EVERYTHING


def test_every_field_that_names_a_choice_has_its_registry():
    for field, _ in named_choices(EVERYTHING):
        assert {field, field.partition(".")[2]} & set(FIND), field
    check_names(Config())
    check_names(Config(grpo=GrpoConfig(tasks=("countdown:1", "gym:any", "jsonl:any"))))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.attention", "mlaa"], "'mlaa': did you mean 'mla'?"),
        (["--model.scoring", "sigmoidd"], "there is no router score 'sigmoidd'"),
        (["--optimizer.name", "adamv"], "there is no optimizer 'adamv': did you mean 'adamw'?"),
        (["--optimizer.name", "no_such:thing"], "the optimizer no_such:thing cannot be imported"),
        (["--kernel.dispatch", "statik"], "did you mean 'static'?"),
        (["--data.sources", "no_such:thing"], "no_such:thing cannot be imported"),
        (["sft", "--sft.tasks", "countdow:1"], "there is no task 'countdow': did you mean"),
        (["sft", "--sft.tasks", "addition:" + "9" * 5000], "there is no task 'addition:999"),
        (["distill", "--distill.tasks", ""], "there is no task ''"),
        (["grpo", "--grpo.rewards", "accurcy", "1"], "did you mean 'accuracy'?"),
        (["grpo", "--grpo.ratio", "tokens"], "did you mean 'token'?"),
        (["grpo", "--grpo.average", "é"], "there is no average 'é'."),
    ],
)
def test_an_unknown_name_is_one_sentence(words, sentence):
    with pytest.raises(SeekjaxError) as raised:
        check_names(parse(words, "train.py"))
    assert sentence in str(raised.value)


def test_the_parts_of_a_recipe_from_outside_are_looked_up_too(monkeypatch):
    own = replace(Objective(), surrogate="clippd")
    monkeypatch.setattr("seekjax.post.names.objective_of", lambda grpo: own)
    with pytest.raises(SeekjaxError, match="did you mean 'clipped'"):
        check_names(Config(grpo=GrpoConfig()))
    with pytest.raises(SeekjaxError, match="no_such"):
        check_names(Config(sft=SftConfig(tasks=("no_such:thing",))))
