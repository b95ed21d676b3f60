"""What the host does: buckets that compile once, tokens as they come, and text that never shows
half a character or a stop string."""

import pytest

from seekjax.config import KernelConfig
from seekjax.generate.decode import decode_steps, prefill
from seekjax.generate.detokenizer import Detokenizer
from seekjax.generate.generator import Generator, bucket
from seekjax.generate.sampling import Sampling

KERNEL = KernelConfig(attention="plain")


def spell(ids) -> str:
    """Bytes from 30 on; a character of two of them is cut by ids as by any byte-level tokenizer."""
    return bytes([(*b"abcdefghijklmnopqrst ", 0xC3, 0xA9)[id % 23] for id in ids]).decode(
        errors="replace"
    )


@pytest.mark.slow
def test_nothing_compiles_twice_within_a_bucket(made):
    generator = Generator(made.model, made.variables, KERNEL, draft=False)
    generator([[1]] * 3, Sampling(max_new=15))
    compiled = prefill._cache_size(), decode_steps._cache_size()
    for length, new, sampling in (
        (16, 9, {"temperature": 0.5}),
        (7, 15, {"top_p": 0.9, "seed": 3, "stop_ids": (4, 5)}),
        (12, 5, {"top_k": 2}),
    ):
        generator([[1] * length] * 3, Sampling(max_new=new, **sampling))
        list(generator.stream([[1] * length] * 3, Sampling(max_new=new + 1, **sampling), chunk=2))
    assert (prefill._cache_size(), decode_steps._cache_size()) == compiled


def test_buckets_waste_at_most_a_quarter():
    for n in range(1, 5000):
        assert n <= bucket(n) <= max(n + 15, 1.25 * n)
        assert bucket(n) % 16 == 0
    assert len({bucket(n) for n in range(1, 4097)}) <= 28
    assert bucket(160) == 160


def test_streaming_writes_what_one_call_writes(made, prompts):
    generator, sampling = (
        Generator(made.model, made.variables, KERNEL, draft=False),
        Sampling(max_new=16, temperature=0.9, seed=2),
    )
    whole, pieces = generator(prompts, sampling, spell), ["", "", ""]
    generation = generator.stream(prompts, sampling, spell, chunk=4)
    for rows in generation:
        pieces = [piece + row.text.take_new() for piece, row in zip(pieces, rows)]
    assert [row.ids for row in generation.completions] == [row.ids for row in whole]
    assert pieces == [str(row.text) for row in whole]
    assert pieces == [spell(row.ids) for row in whole]
    assert generation.tokens == 48
    assert generation.rate() > 0
    assert generation.timings == sorted(generation.timings)
    assert generation.report().startswith("48 tokens, ")


def test_a_stop_string_ends_its_row_alone(made, prompts):
    generator, sampling = (
        Generator(made.model, made.variables, KERNEL, draft=False),
        Sampling(max_new=16, temperature=0),
    )
    plain = [str(row.text) for row in generator(prompts, sampling, spell)]
    stop = plain[0][4:6]
    rows = generator(prompts, Sampling(max_new=16, temperature=0, stop=(stop, "never seen")), spell)
    for text, row in zip(plain, rows):
        assert str(row.text) == text.partition(stop)[0]
        assert row.finish_reason == ("stop" if stop in text else "length")
    assert len(rows[0].ids) < 16


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two", ("two",), "one "),
        ("one two", ("xx", "e t", "n"), "o"),
        ("naïve “q” 🙂!", (), None),
        ("abcab", ("abd",), None),
        ("ends in ab", ("abd",), None),
        ("🙂🙂", ("🙂🙂",), ""),
    ],
)
def test_text_by_single_bytes(text, stop, left):
    growing, seen = Detokenizer(lambda ids: bytes(ids).decode(errors="replace"), stop), ""
    for byte in text.encode():
        ended = growing.add(byte)
        piece = growing.take_new()
        assert ("\ufffd" not in piece and not any(piece.endswith(s[:1]) for s in stop)) or ended
        seen += piece
        if ended:
            break
    growing.finish()
    seen += growing.take_new()
    assert seen == str(growing) == (text if left is None else left)


def test_bytes_that_are_no_character_are_let_through():
    growing = Detokenizer(lambda ids: bytes(ids).decode(errors="replace"))
    for byte in b"a\xff\xff\xff\xff\xff\xff\xff\xff\xe2":
        growing.add(byte)
    assert str(growing) == "a" + "\ufffd" * 8
    growing.finish()
    assert growing.take_new() == "a" + "\ufffd" * 9
