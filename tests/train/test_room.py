"""A run that will not fit is announced in one line, before anything compiles."""

from dataclasses import replace

import pytest

from configs.tiny import config as tiny
from seekjax import memory
from seekjax.config import LoraConfig
from seekjax.train.room import note_shortage
from sharding.mesh_config import MeshConfig

MIB = 2**20
ONE = replace(tiny, name="tiny", mesh=MeshConfig(1), train=replace(tiny.train, steps=300, batch=16))


@pytest.mark.parametrize(
    ("free", "sentence"),
    [
        (64 * MIB, "the run cannot fit: weights, gradients and moments would take 66.6 MiB"),
        (300 * MIB, "the run may not fit: a step would take 357 MiB of memory on this machine"),
        (400 * MIB, ""),
        (None, ""),
    ],
)
def test_what_is_free_decides(free, sentence, monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    note_shortage(ONE)
    printed = capsys.readouterr().err
    assert sentence in printed
    assert len(printed.splitlines()) == bool(sentence)


def test_emulated_devices_share_a_machine(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda: 400 * MIB)
    note_shortage(replace(ONE, mesh=MeshConfig(4)))
    assert "may not fit" in capsys.readouterr().err


def test_adapters_are_another_reckoning(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1)
    note_shortage(replace(ONE, lora=LoraConfig(rank=4)))
    assert capsys.readouterr().err == ""
