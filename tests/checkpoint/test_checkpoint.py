"""Checkpoints are whole or absent: through flipped bits, kills, full disks, other meshes and
several processes."""

import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import seekjax.checkpoint.write as checkpoint
from seekjax.checkpoint.manifest import changed_run_file, damage
from seekjax.checkpoint.read import newest_undamaged
from seekjax.checkpoint.write import Checkpoints
from seekjax.errors import CheckpointError

ROOT = Path(__file__).parents[2]


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    ema: Any = None


def make_state(step, width=16):
    key = jax.random.key(step)
    params = {
        "dense": {"w_uk": jax.random.normal(key, (8, width))},
        "norm": jnp.ones(width).at[0].set(jnp.nan),
        "embed": jax.random.normal(key, (8, 4), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return State(step=jnp.int32(step), params=params, opt_state=optimizer.init(params), key=key)


def place(shape, width=16):
    """The abstract state on a mesh: matrices split over all its axes, the rest everywhere."""
    mesh = jax.make_mesh(
        shape, ("rows", "columns")[: len(shape)], axis_types=(AxisType.Auto,) * len(shape)
    )

    def one(x):
        spec = PartitionSpec(*mesh.axis_names) if x.ndim == 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(
        one,
        jax.eval_shape(make_state, 0)
        if width == 16
        else jax.eval_shape(lambda: make_state(0, width)),
    )


def on(shape, step):
    return jax.device_put(make_state(step), jax.tree.map(lambda x: x.sharding, place(shape)))


def bits(tree):
    raw = jax.tree.map(
        lambda x: (
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ),
        tree,
    )
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(raw)]


def save(folder, *steps, keep=9, shape=(1,)):
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, on(shape, step), data={"position": step}, config={"width": 16})
    checkpoints.close()
    return checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 1 and 2, made once."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, 1, 2)
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of them to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def files(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position // 8] ^= 1 << position % 8
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.mesh
@pytest.mark.parametrize("shape", [(8,), (4,), (1,), (2, 4), (4, 2)])
def test_restored_on_any_mesh_is_bit_for_bit_what_was_saved(tmp_path, shape):
    save(tmp_path, 3, shape=(8,))
    step, state, data = Checkpoints(tmp_path, 1).restore(place(shape))
    assert (step, data) == (3, {"position": 3})
    assert bits(state) == bits(make_state(3))
    assert jax.tree.structure(state) == jax.tree.structure(
        make_state(3)
    )  # named tuples, empty states and None included
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
        lambda x: x.sharding, place(shape)
    )
    assert jax.random.bits(state.key) == jax.random.bits(jax.random.key(3))


def test_an_ema_is_kept(tmp_path):
    state = make_state(1)
    state = state.replace(ema=state.params)
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, state, data={}, config={})
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    assert bits(checkpoints.restore(abstract)[1]) == bits(state)


def test_the_caller_may_donate_what_it_just_saved(tmp_path):
    state = on((8,), 1)
    state = state.replace(
        ema={"big": jax.device_put(jnp.ones((1 << 22,)), state.step.sharding)}
    )  # 16 MB: long enough to be caught half-written
    want, abstract = (
        bits(state),
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state),
    )
    clear = jax.jit(
        lambda s: jax.tree.map(
            lambda x: x * 0 if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x, s
        ),
        donate_argnums=0,
    )
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, state, data={}, config={})
    given = state.ema["big"]
    for _ in range(5):
        state = clear(state)
    jax.block_until_ready(state)
    assert given.is_deleted()
    assert bits(checkpoints.restore(abstract)[1]) == want


def test_saving_goes_on_behind_the_loop(tmp_path, monkeypatch):
    may_finish, write_manifest = threading.Event(), checkpoint.write_manifest
    monkeypatch.setattr(
        checkpoint, "write_manifest", lambda folder: may_finish.wait(60) and write_manifest(folder)
    )
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(1, make_state(1), data={}, config={})
    assert checkpoints.latest is None
    assert names(tmp_path) == ["saving-1"]
    may_finish.set()
    checkpoints.save(2, make_state(2), data={}, config={})  # waits for the one before
    assert "1" in names(tmp_path)
    checkpoints.close()
    assert names(tmp_path) == ["1", "2"]


def test_nothing_saved_is_nothing_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.latest is None
    assert checkpoints.restore(place((1,))) is None
    with pytest.raises(ValueError, match="at least one"):
        Checkpoints(tmp_path, 0)


def test_a_step_folder_holds_the_config_and_lists_its_files(run):
    step = run / "checkpoints" / "2"
    assert json.loads((step / "config.json").read_text()) == {"width": 16}
    listed = json.loads((step / "manifest.json").read_text())
    assert set(listed) == {path.relative_to(step).as_posix() for path in files(step)} - {
        "manifest.json"
    }
    assert {"config.json", "data-0.json", "state/_METADATA"} <= set(listed)


def test_only_the_newest_are_kept(tmp_path):
    assert save(tmp_path, 1, 2, 9, 10, 11, keep=2).latest == 11
    assert names(tmp_path) == ["10", "11"]


def test_saving_a_step_again(run):
    checkpoints = Checkpoints(run, 2)
    with pytest.raises(
        CheckpointError, match=r"step 2 is not newer than step 2 .* resume"
    ):  # this run never read step 2
        checkpoints.save(2, make_state(2), data={}, config={})
    checkpoints.restore(place((1,)))
    checkpoints.save(2, make_state(2), data={}, config={})  # nothing to do: it is there
    with pytest.raises(CheckpointError, match="step 1 is not newer than step 2"):
        checkpoints.save(1, make_state(1), data={}, config={})
    checkpoints.close()
    assert names(run) == ["1", "2"]
    assert not any(damage(run / "checkpoints" / step) for step in ("1", "2"))


def test_every_flipped_bit_is_seen(run):
    step, chance = run / "checkpoints" / "2", random.Random(0)
    assert damage(step) is None
    for path in files(step):
        size = 8 * path.stat().st_size
        for position in [0, size - 1, *(chance.randrange(size) for _ in range(3))]:
            flip(path, position)
            assert damage(step), f"bit {position} of {path}"
            flip(path, position)
    for position in chance.sample(range(8 * (step / "manifest.json").stat().st_size), 100):
        flip(step / "manifest.json", position)
        assert damage(step), f"bit {position} of the manifest"
        flip(step / "manifest.json", position)
    assert damage(step) is None


def test_a_position_that_all_processes_share_fits_any_number_of_them(run, capfd):
    (run / "checkpoints" / "2" / "data-1.json").write_text(
        '{"position": 2}'
    )  # as if two had saved it
    assert Checkpoints(run, 2).restore(place((1,)), shared_position=True)[2] == {"position": 2}
    assert not capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hurt", "reason"),
    [
        (
            lambda step: flip(
                random.choice([p for p in files(step) if p.name != "manifest.json"]), 7
            ),
            "does not match its SHA-256",
        ),
        (lambda step: os.truncate(max(files(step), key=os.path.getsize), 100), "is 100 bytes, not"),
        (lambda step: (step / "state" / "_METADATA").unlink(), "state/_METADATA is missing"),
        (lambda step: (step / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda step: (step / "manifest.json").write_text(""), "manifest.json is damaged"),
        (lambda step: (step / "manifest.json").write_text("{}"), "manifest.json is empty"),
        (
            lambda step: (step / "manifest.json").write_text('{"config.json": 3}'),
            "manifest.json is damaged",
        ),
        (lambda step: [path.unlink() for path in files(step)], "manifest.json is missing"),
    ],
    ids=[
        "bit",
        "truncated",
        "missing",
        "no manifest",
        "blank manifest",
        "empty manifest",
        "strange manifest",
        "half deleted",
    ],
)
def test_a_damaged_step_is_set_aside_and_the_one_before_is_used(run, capfd, hurt, reason):
    hurt(run / "checkpoints" / "2")
    checkpoints = Checkpoints(run, 2)
    step, state, data = checkpoints.restore(place((2, 4)))
    assert (step, data) == (1, {"position": 1})
    assert bits(state) == bits(make_state(1))
    assert names(run) == ["1", "bad-2"]
    assert checkpoints.latest == 1
    said = capfd.readouterr().err
    assert "checkpoints/2 is damaged" in said
    assert reason in said
    assert "bad-2" in said
    assert "Traceback" not in said
    checkpoints.save(
        2, make_state(2), data={}, config={}
    )  # the run goes on, and step 2 comes again
    assert checkpoints.restore(place((1,)))[0] == 2
    hurt(run / "checkpoints" / "2")
    assert checkpoints.restore(place((1,)))[0] == 1
    assert names(run) == ["1", "bad-2", "bad-2.1"]


def test_a_run_never_starts_anew_over_damaged_steps(run):
    for step in (1, 2):
        flip(run / "checkpoints" / str(step) / "config.json", 3)
    for _ in range(2):  # and not the second time either
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
            Checkpoints(run, 2).restore(place((1,)))
    assert names(run) == ["bad-1", "bad-2"]


def test_leftovers_of_an_interrupted_save_break_nothing(run):
    folder = run / "checkpoints"
    shutil.copytree(folder / "2", folder / "saving-3")
    shutil.copytree(folder / "2", folder / "deleted-1")
    (folder / "saving-3" / "manifest.json").unlink()
    checkpoints = Checkpoints(run, 2)
    assert checkpoints.restore(place((1,)))[0] == 2
    assert names(run) == ["1", "2"]  # a start removes them
    checkpoints.save(3, make_state(3), data={}, config={})
    checkpoints.close()
    assert names(run) == ["2", "3"]


def test_the_run_files_of_a_step_are_recorded(tmp_path):
    (tmp_path / "tokenizer.json").write_text("tokens")
    save(tmp_path, 1)
    step = tmp_path / "checkpoints" / "1"
    assert changed_run_file(tmp_path, step) is None
    flip(tmp_path / "tokenizer.json", 9)
    assert changed_run_file(tmp_path, step) == "tokenizer.json does not match its SHA-256"
    assert damage(step) is None  # the weights are whole
    (tmp_path / "tokenizer.json").unlink()
    assert changed_run_file(tmp_path, step) == "tokenizer.json is missing"
    (step / "run_files.json").unlink()  # as in a step of an earlier version
    assert changed_run_file(tmp_path, step) is None


def test_a_damaged_step_is_named_on_every_reading(run, capfd):
    flip(run / "checkpoints" / "2" / "config.json", 3)
    for _ in range(2):
        assert newest_undamaged(run / "checkpoints").name == "1"
    said = capfd.readouterr().err
    assert said.count("damaged checkpoints (2: config.json does not match its SHA-256)") == 1
    assert "using step 1" in said


def test_writes_that_end_after_a_failure_are_not_shown():
    shown = []
    show = checkpoint._without_late_writes(shown.append)
    for text in ("Event loop is closed", "another"):
        show(SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(event.exc_value) for event in shown] == ["another"]


def test_a_failed_start_of_a_save_is_a_sentence(run, monkeypatch):
    checkpoints = Checkpoints(run, 2)
    checkpoints.restore(place((1,)))

    def full(run, step):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_run_files", full)
        with pytest.raises(CheckpointError, match=r"step 3 could not be saved .* the disk is full"):
            checkpoints.save(3, make_state(3), data={}, config={})
    assert names(run) == ["1", "2"]
    assert not checkpoints.is_saving


def test_another_config_is_one_clear_sentence(run, capfd):
    checkpoints = Checkpoints(run, 2)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(place((1,), width=32))
    folder = run / "checkpoints" / "2"
    assert str(caught.value) == (
        f"checkpoint {folder} holds params/dense/w_uk as float32[8, 16], this config "
        "needs float32[8, 32]; "
        "holds params/norm as float32[16], this config needs float32[32]; "
        "holds opt_state/1/0/mu/dense/w_uk as float32[8, 16], this config needs "
        "float32[8, 32]; and 3 more: "
        f"use the config saved in {folder}/config.json or another --out"
    )
    abstract = place((1,))
    half = abstract.replace(
        params=abstract.params | {"norm": jax.ShapeDtypeStruct((16,), jnp.bfloat16)}
    )
    with pytest.raises(
        CheckpointError,
        match=r"holds params/norm as float32\[16\], this config needs bfloat16\[16\]: use",
    ):
        checkpoints.restore(half)  # Orbax would cast without a word
    with pytest.raises(CheckpointError, match=r"lacks ema/norm float32\[16\]: use"):
        checkpoints.restore(abstract.replace(ema={"norm": abstract.params["norm"]}))
    with pytest.raises(
        CheckpointError, match=r"holds key uint32\[2\], which this config lacks: use"
    ):
        checkpoints.restore(abstract.replace(key=None))
    assert names(run) == ["1", "2"]
    assert capfd.readouterr().err == ""


def test_another_number_of_processes_gets_the_data_positions_of_all(run):
    step = run / "checkpoints" / "2"
    own = json.loads((step / "data-0.json").read_text())
    (step / "data-1.json").write_text("{}")
    assert Checkpoints(run, 2).restore(place((1,)))[::2] == (2, {"processes": [own, {}]})


def test_an_error_in_the_background_is_told_at_the_next_call(run, monkeypatch):
    checkpoints = Checkpoints(run, 2)
    checkpoints.restore(place((1,)))
    for error, words in [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full, free some space"),
        (OSError(errno.EIO, "broken"), "OSError: .*broken"),
    ]:

        def fail(folder, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_manifest", fail)
            checkpoints.save(3, make_state(3), data={}, config={})
            with pytest.raises(
                CheckpointError,
                match=f"step 3 could not be saved in .*: {words}.*; the steps saved before are "
                "unharmed",
            ):
                checkpoints.save(4, make_state(4), data={}, config={})
        assert names(run) == ["1", "2"]
    checkpoints.save(4, make_state(4), data={}, config={})  # told once; the next may succeed
    checkpoints.close()
    assert names(run) == ["2", "4"]


def test_a_full_disk_harms_no_earlier_step(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        save(disk, 1)
        checkpoints = Checkpoints(disk, 1)
        big = {"w": jax.random.normal(jax.random.key(0), (1 << 21,))}  # 8 MiB of noise
        checkpoints.save(2, big, data={}, config={})
        with pytest.raises(
            CheckpointError,
            match=r"step 2 could not be saved in .*: the disk is full, free some space",
        ):
            checkpoints.wait()
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize))
        with pytest.raises(CheckpointError, match="the disk is full"):  # not even room to begin
            checkpoints.save(2, make_state(2), data={}, config={})
        assert names(disk) == ["1"]
        assert bits(checkpoints.restore(place((1,)))[1]) == bits(make_state(1))
        (disk / "filler").unlink()
        checkpoints.save(2, make_state(2), data={}, config={})
        checkpoints.close()
        assert names(disk) == ["2"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def outputs(script, *arguments, devices):
    """Run the script once for each list of arguments, at the same time: what each said on
    stdout."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, str(ROOT / "tests" / "scripts" / script)]
    processes = [
        subprocess.Popen(
            command + [str(a) for a in one],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for one in arguments
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), said
    return [out for out, _ in said]


@pytest.mark.long
@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_saved_step(tmp_path):
    result = json.loads(*outputs("kill_during_save.py", [tmp_path, 20], devices=1))
    assert len(result["restored"]) == result["kills"] == 20
    assert result["interrupted"] >= 5  # the kills did fall into saves
    assert max(result["restored"]) > 5  # and the run did go on


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    first, second = outputs(
        "checkpoint_on_two.py", [tmp_path, port, 0], [tmp_path, port, 1], devices=2
    )
    assert "PermissionError: read-only" in first
    assert "another process could not save" in second
    assert names(tmp_path) == ["1", "3", "bad-2"]

    mesh = jax.make_mesh(
        (8,), ("data",), axis_types=(AxisType.Auto,)
    )  # and one process with other devices reads it
    everywhere = NamedSharding(mesh, PartitionSpec())
    abstract = {
        "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
        "key": jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=everywhere),
        "w": jax.ShapeDtypeStruct(
            (8, 4), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data"))
        ),
    }
    step, state, data = Checkpoints(tmp_path, 2).restore(abstract)
    assert step == state["step"] == 3
    assert data == {"processes": [{"rank": rank, "position": 3} for rank in (0, 1)]}
    assert (np.asarray(state["w"]) == 3 * np.arange(32.0).reshape(8, 4)).all()
    assert json.loads((tmp_path / "checkpoints" / "3" / "data-1.json").read_text()) == {
        "rank": 1,
        "position": 3,
    }
