"""Tasks of lm-eval by our adapter: figures that are computed again from the model itself."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seekjax.commands import lm_eval
from seekjax.commands.settings import Harness
from seekjax.config import Config, DataConfig, TrainConfig
from seekjax.data.chat import BUILT_IN, compile_chat
from seekjax.errors import DataError, UsageError
from seekjax.eval.scoring import Continuation, Scorer
from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.model.transformer import Transformer, logits
from seekjax.open import open_model
from seekjax.placement import use_mesh
from seekjax.serve.app import Api
from seekjax.serve.limits import Limits
from seekjax.serve.served import Run, ServedModel
from seekjax.serve.service import Service
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER, PLAIN, save_run
from tests.serve.running import server_of

# before lm-eval imports the library of data sets: no network, and no file in the user's folder
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp()}

TASKS = Path(__file__).parent / "lm_eval_tasks"
CONTEXT = 128


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = Config(
        model=replace(ONE_LAYER, dense_layers=1, context=CONTEXT),
        data=DataConfig(tokenizer="byte", sequence=32),
        mesh=MeshConfig(data=1),
        train=TrainConfig(batch=1),
        kernel=PLAIN,
    )
    folder = tmp_path_factory.mktemp("run")
    save_run(config, folder)
    return folder


@pytest.fixture(scope="module")
def opened(run):
    with use_mesh(MeshConfig(data=1)):
        yield open_model(run)


@pytest.fixture(scope="module")
def exact(opened):
    """A function: log p and the most likely token at every position of one text of ids."""
    apply = jax.jit(
        lambda tokens: logits(
            Transformer(opened.model, opened.kernel).apply(opened.variables, tokens)
        )
    )

    def positions(ids):
        padded = np.zeros((1, CONTEXT), np.int32)
        padded[0, : len(ids)] = ids
        logit_TV = apply(padded)[0]
        return np.asarray(jax.nn.log_softmax(logit_TV), np.float64), np.asarray(logit_TV.argmax(-1))

    return positions


def rows(name):
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text().splitlines()]


def log_prob(exact, context, tokens):
    """log p of tokens after a context, and whether each is the most likely."""
    ids = [*context, *tokens]
    log_TV, best_T = exact(ids[:-1])
    first = len(context) - 1
    chosen = [log_TV[first + i, token] for i, token in enumerate(tokens)]
    return sum(chosen), all(best_T[first + i] == token for i, token in enumerate(tokens))


def test_scores_are_those_of_the_plain_model(opened, exact):
    random = np.random.default_rng(0)
    pairs = [
        Continuation(random.integers(3, 272, before).tolist(), random.integers(3, 272, n).tolist())
        for before, n in ((1, 1), (5, 3), (40, 20), (100, 28), (1, 128))
    ]
    greedy = Continuation([5], [int(exact([5])[1][0])])
    with use_mesh(MeshConfig(data=1)):
        scorer = Scorer(Generator(opened.model, opened.variables, opened.kernel), rows=3)
        scores = scorer([*pairs, greedy])
        # what does not fit loses its beginning
        [cut] = scorer([Continuation([7, 8, *pairs[3].context], pairs[3].tokens)])
    for pair, score in zip([*pairs, greedy], scores):
        expected, most_likely = log_prob(exact, *pair)
        assert score.log_prob == pytest.approx(expected, abs=1e-4)
        assert score.greedy == most_likely
    assert scores[-1].greedy
    context = [8, *pairs[3].context]
    assert cut.log_prob == pytest.approx(log_prob(exact, context, pairs[3].tokens)[0], abs=1e-4)


@pytest.mark.slow
def test_tasks_of_lm_eval_without_a_network(run, opened, exact, command, tmp_path):
    status, out, err = command(
        *("eval", run, "--lm-eval", "own_choice,own_answer,own_text"),
        *("--lm-eval-tasks", TASKS, "--batch", 4, "--report", tmp_path / "report.json"),
    )
    assert status == 0, err
    report = json.loads((tmp_path / "report.json").read_text())
    figures = {name: task["metrics"] for name, task in report["lm_eval"].items()}
    tokenizer = opened.tokenizer

    def begun(text):
        return [tokenizer.begin, *tokenizer.encode(text).tolist()]

    # the choice of the greatest log p, in all and per character
    right, right_normed = [], []
    for row in rows("choice"):
        scores = [
            log_prob(exact, begun(row["question"]), tokenizer.encode(" " + choice).tolist())[0]
            for choice in row["choices"]
        ]
        normed = [score / len(choice) for score, choice in zip(scores, row["choices"])]
        right.append(int(np.argmax(scores)) == row["answer"])
        right_normed.append(int(np.argmax(normed)) == row["answer"])
    assert figures["own_choice"]["acc"] == pytest.approx(np.mean(right))
    assert figures["own_choice"]["acc_norm"] == pytest.approx(np.mean(right_normed))
    assert report["lm_eval"]["own_choice"]["samples"] == 6

    # the bits of every byte of a text, in windows of the context
    nats, size = 0.0, 0
    for row in rows("text"):
        ids = begun(row["text"])
        size += len(row["text"].encode())
        whole = ids[: CONTEXT + 1]
        nats -= log_prob(exact, whole[:1], whole[1:])[0]
        rest = ids[CONTEXT + 1 :]
        if rest:
            window = ids[-CONTEXT - 1 :]
            nats -= log_prob(exact, window[: -len(rest)], rest)[0]
    bits = nats / np.log(2) / size
    assert figures["own_text"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert figures["own_answer"]["exact_match"] == 0

    assert "own_choice: 6 samples, 0 shots: acc " in out
    assert f"bits_per_byte {bits:.4f}\n" in out
    assert report["bare"] is False


@pytest.mark.slow
def test_answers_are_those_of_the_generator(opened):
    from lm_eval.api.instance import Instance

    from seekjax.eval.harness import HarnessModel

    tokenizer, template = opened.tokenizer, compile_chat(BUILT_IN["v3"])
    settings = {"until": ["\n", "e"], "do_sample": False, "max_gen_toks": 8}
    sampling = Sampling(max_new=8, temperature=0, stop=("\n", "e"), stop_ids=tokenizer.stops)
    talk = [{"role": "user", "content": "1+1= <｜User｜>"}]
    with use_mesh(MeshConfig(data=1)):
        generator = Generator(opened.model, opened.variables, opened.kernel)
        plain = HarnessModel(generator, tokenizer, rows=4)
        chat = HarnessModel(generator, tokenizer, rows=4, chat=template)

        # a conversation becomes the ids of the template, with the question's names as text
        conversation = chat.apply_chat_template(talk)
        ids = template.encode(tokenizer, talk)
        assert chat.tok_encode(conversation) == ids
        assert ids.count(tokenizer.user) == 1
        assert chat._encode_pair(conversation, "2") == (ids, tokenizer.encode("2").tolist())
        begun = [*talk, {"role": "assistant", "content": "It is"}]
        text = chat.apply_chat_template(begun, add_generation_prompt=False)
        assert chat.tok_encode(text) == [*ids, *tokenizer.encode("It is").tolist()]

        texts = {plain: ["The sum of 1 and 1 is ", "The colour of it is "], chat: [conversation]}
        for model, contexts in texts.items():
            requests = [
                Instance("generate_until", {}, (context, settings), 0) for context in contexts
            ]
            prompts = [model.tok_encode(context) for context in contexts]
            expected = generator(prompts + 2 * prompts[:1], sampling, tokenizer.decode)
            answers = model.generate_until(requests)
            assert answers == [str(completion.text) for completion in expected[: len(answers)]]


@pytest.mark.long
@pytest.mark.slow
def test_a_server_says_the_same(opened):
    """lm-eval's local-completions and local-chat-completions against `seekjax serve`'s server."""
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    from seekjax.eval.harness import HarnessModel

    tokenizer, template = opened.tokenizer, compile_chat(BUILT_IN["v3"])
    sizes = EngineSettings(max_batch=1, chunk=64)
    names = ("own_choice", "own_answer", "own_text")

    def responses(model, names, **options):
        loaded = lm_eval.load_tasks(names, TASKS)
        figures = lm_eval.run_tasks(model, loaded, Harness(**options))
        instances = [i for name in names for i in loaded["tasks"][name].instances]
        return figures, [instance.resps for instance in instances]

    mesh = MeshConfig(data=1)
    with use_mesh(mesh):
        generator = Generator(opened.model, opened.variables, opened.kernel)
        expected, own = responses(HarnessModel(generator, tokenizer, 4, bare=True), names)
        asked = HarnessModel(generator, tokenizer, 4, chat=template)
        expected_chat, own_chat = responses(asked, names[1:2], as_chat=True)
        engine = Engine(opened.model, opened.variables, opened.kernel, sizes)

    service = Service([engine], 64, lambda: use_mesh(mesh))
    served = ServedModel("run", tokenizer, template, CONTEXT, Run("0" * 16))
    with server_of(Api(service, served, Limits())) as url:
        plain = LocalCompletionsAPI(
            base_url=f"{url}/v1/completions", model="run", max_length=CONTEXT
        )
        figures, theirs = responses(plain, names)
        chat = LocalChatCompletion(base_url=f"{url}/v1/chat/completions", model="run")
        chat_figures, their_chat = responses(chat, names[1:2], as_chat=True)

    assert (chat_figures, their_chat) == (expected_chat, own_chat)
    assert figures["own_choice"] == expected["own_choice"]
    assert figures["own_answer"] == expected["own_answer"]

    # of the last text, which is longer than the context, lm-eval makes other windows
    assert len(own) == len(theirs) == 15 + 3 + 2
    for [mine], [other] in zip(own[:-1], theirs[:-1]):
        if isinstance(mine, tuple):  # log p, and whether greedy decoding returns it
            assert mine[1] == other[1]
            mine, other = mine[0], other[0]
        assert mine == (other if isinstance(other, str) else pytest.approx(other, rel=1e-5))


def test_settings_of_answers():
    from seekjax.eval.harness import answer_settings, without_thinking

    drawn = answer_settings({"do_sample": True, "temperature": 0.5, "top_p": 0.9}, [1])
    assert (drawn.temperature, drawn.top_p, drawn.stop_ids) == (0.5, 0.9, (1,))
    assert answer_settings({"do_sample": False, "temperature": 0.5, "num_beams": 1}, []) == (
        Sampling(temperature=0)
    )
    assert answer_settings({"until": "\n\n", "temperature": 0.7}, []).temperature == 0.7
    with pytest.raises(DataError, match="asks for penalty=2, and seekjax has no such setting"):
        answer_settings({"penalty": 2}, [])
    assert without_thinking("hm</think>42", "Hi<think>") == "42"
    assert without_thinking("<think>hm</think>42", "Hi") == "42"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--lm-eval", "own_text", "--data", "x"], "name one of --data, for"),
        (["--lm-eval", "own_text", "--lm-eval-tasks", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_sentence(options, says, run, command):
    status, _, err = command("eval", run, *options)
    assert status == 2
    assert says in err


def test_an_unknown_task_is_refused_with_the_nearest_name(monkeypatch):
    from lm_eval import tasks

    names = type("Manager", (), {"__init__": lambda *a, **k: None, "all_tasks": ["arc_easy"]})
    monkeypatch.setattr(tasks, "TaskManager", names)
    with pytest.raises(UsageError, match="no task 'arc_eazy': did you mean 'arc_easy'"):
        lm_eval.load_tasks(("arc_eazy",), None)
