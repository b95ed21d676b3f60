"""What a command is about to hold is compared with what is free, before anything is read."""

import jax
import jax.numpy as jnp
import pytest

from seekjax import memory
from seekjax.errors import WeightsError
from seekjax.hf.load import load
from seekjax.hf.save import save
from seekjax.open import published_kernel
from tests.hf.small import V3, drawn


def described(rows):
    """An array of 4 bytes times `rows` on one device."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"w": jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=place)}


def test_what_does_not_fit_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda: 5 * 2**30)
    memory.check_room(described(2**20), 0, "reading a", "buy more", WeightsError)
    assert capsys.readouterr().err == ""
    memory.check_room(described(2**29), 2**30, "reading a", "buy more", WeightsError)
    assert capsys.readouterr().err == "note: reading a takes up to 3.00 GiB of memory\n"

    with pytest.raises(WeightsError) as refused:
        memory.check_room(described(2**30), 2**31, "reading a", "buy more", WeightsError)
    assert str(refused.value) == (
        "reading a needs 6.00 GiB of memory on this machine, of which 5.00 GiB are free: buy more."
    )


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = memory.free_bytes()
    assert machine is None or machine > 2**20
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\nactive_file 3\n")
    assert memory.free_bytes() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    # Other programs take and free memory meanwhile: only that the limit is gone is sure.
    unlimited = memory.free_bytes()
    assert unlimited is None or unlimited > 2**20


def test_weights_keep_the_dtype_that_fits(monkeypatch, tmp_path):
    """float32 is faster on a CPU; bfloat16 takes half as much."""
    save(tmp_path / "bf16", V3, drawn(V3), "bf16")
    save(tmp_path / "f32", V3, drawn(V3), "f32")
    assert published_kernel(tmp_path / "bf16").dtype == "float32"

    monkeypatch.setattr(memory, "free_bytes", lambda: 5000)
    assert published_kernel(tmp_path / "bf16").dtype == "bfloat16"
    assert published_kernel(tmp_path / "f32").dtype == "float32"
    with pytest.raises(WeightsError, match=r"reading .*bf16 as float32 needs .*\(seekjax quantize"):
        load(tmp_path / "bf16")
