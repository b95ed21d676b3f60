"""Turns of a conversation on the engine, and the threads that compile its programs."""

import time

import pytest

from seekjax.errors import GenerateError
from seekjax.generate.conversation import Compiler, ConversationGenerator
from seekjax.generate.engine.compiled import Programs
from seekjax.generate.sampling import Sampling

GREEDY = Sampling(max_new=8, temperature=0)


def spell(ids) -> str:
    return "".join([chr(ord("a") + id % 26) for id in ids])


@pytest.mark.slow
def test_turns_are_the_model_s_own_and_read_only_what_is_new(cold, made):
    conversation = ConversationGenerator(cold)
    hits = cold.statistics().prefix_hits
    talk = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    for turn in range(2):
        generation = conversation.stream([talk], GREEDY, spell)
        [answer] = generation.finish()
        assert answer.ids == made.greedy(talk, 8)
        assert str(answer.text) == spell(answer.ids)
        log_probs_TV = made.log_probs([*talk, *answer.ids])
        expected = [log_probs_TV[len(talk) - 1 + t, id] for t, id in enumerate(answer.ids)]
        assert answer.log_probs == pytest.approx(expected, abs=1e-4)
        assert answer.finish_reason == "length"
        assert generation.report().startswith("8 tokens, ")
        talk = [*talk, *answer.ids, 7, turn]
    # whole pages of 8 of the turns before
    assert cold.statistics().prefix_hits - hits == 16


@pytest.mark.slow
def test_an_answer_that_is_left_frees_its_pages(cold, made):
    conversation = ConversationGenerator(cold)
    for _ in conversation.stream([[1, 2, 3]], Sampling(max_new=30, temperature=0), spell):
        break
    assert cold.pool.held == 0
    assert cold.idle

    # one that a stop string ends, too
    expected = spell(made.greedy([1, 2, 3], 8))
    stop = Sampling(max_new=8, temperature=0, stop=(expected[2:4],))
    [answer] = conversation.stream([[1, 2, 3]], stop, spell).finish()
    assert answer.finish_reason == "stop"
    assert str(answer.text) == expected[:2]
    assert cold.pool.held == 0
    with pytest.raises(GenerateError, match="shorten it"):
        conversation.stream([[1] * 64])


class Counted(Programs):
    """Programs that take some time to compile and do nothing."""

    def __init__(self):
        super().__init__(None, None, None, 16)
        self.lowered = []

    def all_keys(self):
        return [("read", 64), ("score", 64), ("decode", 1), ("read", 256)]

    def _lower(self, *key):
        self.lowered.append(key)
        time.sleep(0.05)
        return self

    def _bind(self, name, program):
        return lambda: name

    def compile(self):
        return None


def test_programs_are_compiled_by_threads_once_each():
    programs = Counted()
    compiler = Compiler(programs)
    assert programs("decode", 1)() == "decode"  # needed at once
    assert programs("read", 64)() == "read"  # a thread has it, or is about to
    assert programs.waited > 0
    for thread in compiler._threads:
        thread.join()
    assert sorted(programs.lowered) == [("decode", 1), ("read", 64), ("read", 256)]

    waited = programs.waited
    programs("read", 256)
    assert programs.waited == waited


def test_threads_end_after_the_programs_in_progress():
    programs = Counted()
    compiler = Compiler(programs)
    assert not compiler.close(0)
    assert compiler.close()
    assert sorted(programs.lowered) == [("decode", 1), ("read", 64)]
