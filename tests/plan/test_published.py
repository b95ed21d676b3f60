"""The papers' own numbers, as `seekjax plan` prints them."""

import json

import pytest

from seekjax.commands.cli import main


@pytest.fixture
def printed(capsys):
    """A function that runs `seekjax plan` and returns what it prints."""

    def run(*words):
        assert main(["plan", *words]) == 0
        return capsys.readouterr().out

    return run


def lines(text):
    return [" ".join(line.split()) for line in text.splitlines()]


V3_COST = ["v3", "--on", "h800:2048", "--hours-per-trillion", "180000"]


def test_v3_cost_5_576_million_dollars(printed):
    text = lines(printed(*V3_COST, "--device-hours", "119000", "5000"))
    assert "pre-training 2,664K device-hours 14.8T tokens" in text
    assert "other phases 124K device-hours 119K + 5K" in text
    assert "all 2,788K device-hours $5.576M at $2.00 per device-hour" in text
    assert "per trillion tokens 180K device-hours 3.7 days on 2,048 devices" in text
    assert "per step 62,914,560 tokens batch x sequence" in text


def test_v3_flops_are_the_papers(printed):
    """Counted they are 250.5 GFLOP per token; 385.8 TFLOP/s follows from the rounded 250."""
    figures = json.loads(printed(*V3_COST, "--json"))
    assert figures["cost"]["flops_per_device"] == pytest.approx(386.5e12, rel=1e-4)
    text = lines(printed(*V3_COST, "--flops-per-token", "250e9"))
    assert "without prediction, as papers count 250.5" in text
    assert any(line.startswith("per device 385.8 TFLOP/s 39.0% of the bfloat16") for line in text)


def test_v2_saves_42_5_percent_of_the_dense_67b(printed):
    words = ["v2", "--on", "h800:2048", "--hours-per-trillion", "172800", "--against", "300600"]
    text = lines(printed(*words))
    assert "172.8K device-hours per trillion tokens are 42.5% less than 300.6K" in text
    assert "all 155.3" in text


def test_r1_cost_294_thousand_dollars(printed):
    words = ["v3", "--on", "h800:512", "--tokens", "0", "--device-hours", "101e3", "5e3", "41e3"]
    text = lines(printed(*words))
    assert "all 147K device-hours $294,000 at $2.00 per device-hour" in text


def test_the_exchange_of_the_hardware_paper(printed):
    """2505.09343 rounds the width to 7,000 and counts all 61 layers."""
    words = ["v3", "--on", "h800:320", "--inference", "--batch", "32", "--weights", "fp8"]
    text = printed(*words, "--model.embed", "7000", "--model.dense-layers", "0")
    assert "one exchange        120.96 us" in text
    assert "14.76 ms per token" in text
    exact = json.loads(printed(*words, "--json"))
    assert exact["exchange_seconds"] == pytest.approx(123.86e-6, rel=1e-4)


def test_v3_on_a_node_of_eight_h200(printed):
    words = ["v3", "--on", "h200:8", "--inference", "--weights", "fp8"]
    figures = json.loads(printed(*words, "--json"))
    assert figures["cache_bytes_per_token"] == 70272
    assert figures["bytes_once"] == pytest.approx(671e9, rel=1e-3)
    assert 50 < figures["largest_batch"] < 200
    assert 0.01 < figures["seconds_per_token"] < 0.1


def test_r1_on_a_laptop_at_four_bits(printed):
    text = lines(printed("v3", "--on", "cpu", "--inference", "--weights", "int4"))
    assert "the model, once 332 GiB weights in int4" in text
    assert "v3 does not fit with a sequence of 4,096 tokens; it does on --on cpu:32" in text
    assert "v2_lite 7.77 GiB fits" in text


def test_an_mfu_states_the_speed(printed):
    figures = json.loads(printed("v3", "--on", "h800:2048", "--mfu", "0.4", "--json"))
    assert figures["cost"]["flops_per_device"] == pytest.approx(0.4 * 989e12)
    assert figures["cost"]["basis"] == "at a stated MFU of 40.0%"


def test_options_may_come_in_any_order(printed):
    assert json.loads(printed("tiny", "--json", "--train.batch", "8", "--on=cpu:1"))["memory"]
    text = printed("v3", "--batch", "999", "--inference", "--weights=fp8", "--on", "h200:8")
    assert "per device, 7,992 in all, more than fit" in text


def test_a_link_without_a_figure_is_left_out(printed):
    """Meshes are ordered by what they send over it, and the times say what they lack."""
    figures = json.loads(printed("moe_16b", "--on", "a100:64", "--json"))
    uncounted = [mesh["uncounted"] for mesh in figures["meshes"]]
    assert uncounted == sorted(uncounted)
    assert figures["cost"]["basis"].endswith("without what is left out")
    assert "gather weights" in figures["time"]["left_out"]


def test_a_kind_of_attention_from_outside(printed):
    own = ["--model.attention", "tests.scripts.own_attention:GQA", "--model.sizes", "kv_heads", "2"]
    own += ["--model.nope", "0", "--model.rotary", "32"]
    figures = json.loads(printed("tiny", "--on", "cpu", *own, "--json"))
    counted = figures["parameters"]["total"] + figures["parameters"]["mtp"]
    biases = 16 * 4
    assert figures["memory"]["weights"] == 4 * (counted - biases)


def test_without_devices_it_counts(printed):
    text = lines(printed("v3"))
    assert text[0].startswith("671.0B parameters (and 11.6B for prediction), 36.6B active")
    assert text[-1] == "time and cost: add --on KIND:COUNT, as --on h800:2048"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["v3", "--on", "h900:8"], "there is no chip 'h900': did you mean 'h800'?"),
        (["v3", "--on", "h800:many"], "write KIND:COUNT with a count of 1 to 1,048,576"),
        (["v3", "--on", "h800:0"], "write KIND:COUNT"),
        (["v3", "--inference"], "--inference needs devices"),
        (["v3", "--mesh.fsdp", "0"], "mesh.fsdp is 0: give a positive number of devices."),
        (["tiny", "--on", "cpu", "--mesh.fsdp", "0"], "mesh.fsdp is 0: give a positive number"),
        (["v3", "--mfu", "0.4"], "--on KIND:COUNT is missing"),
        (["tiny", "--on", "cpu", "--tokens", "nan"], "tokens is nan: it must be a finite number"),
        (["tiny", "--on", "cpu", "--price", "-1"], "price is -1.0: it must be at least 0"),
        (["grpo", "--on", "cpu"], "grpo is not planned: a plan is of pre-training"),
        (["v3", "--on", "h800:8", "--mfu", "2"], "mfu is 2.0: it must be at most 1"),
        (["v3", "--on", "h100:8"], "it fits with --on h100:256."),
        (["v3", "--on", "h800:7"], "no mesh of 7 devices divides the model and its batch"),
        (
            ["v3", "--on", "h800:2048", "--mesh.fsdp", "3", "--mesh.data", "1"],
            "the mesh has 768 devices and --on h800:2048 has 2,048",
        ),
        (
            [*V3_COST, "--mfu", "0.4"],
            "--mfu and --hours-per-trillion both state the speed: give one of them.",
        ),
        (["tiny", "--on", "h800:1"], "the table of chips has no peak in float32 for h800"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, capsys):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
