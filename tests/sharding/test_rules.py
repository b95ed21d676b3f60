"""The policy: which mesh axes an array gets, what happens without a mesh, and what a wrong name
does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from seekjax.placement import declare_axes, use_mesh
from sharding.axes import Role, Vocabulary
from sharding.mesh import MeshConfig, abstract_mesh
from sharding.place import Named, axes_of, put_batch, unbox
from sharding.rules import RULES, constrain, local, mesh_axes, sharding, spec, split_by, use

SIXTY_FOUR = abstract_mesh(MeshConfig(data=2, fsdp=2, node=2, expert=2, context=2, tensor=2), 64)


@pytest.mark.parametrize(
    "ask", [spec, lambda axes: constrain(jnp.zeros((2, 2)), axes)], ids=["spec", "constrain"]
)
@pytest.mark.parametrize("meshed", [False, True])
def test_an_unknown_name_raises(ask, meshed):
    def wrong():
        with pytest.raises(
            ValueError, match=r"'widgets' is not a logical axis; .*batch, sequence, embed"
        ):
            ask("batch widgets")

    if meshed:
        with use_mesh(SIXTY_FOUR):
            wrong()
    else:
        wrong()


def test_an_unknown_name_in_the_rules_raises():
    with (
        pytest.raises(ValueError, match=r"'widgets' is not a role; .*BATCH, SEQUENCE"),
        use_mesh(SIXTY_FOUR, (("widgets", ("data",)),)),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"'dta' is not a mesh axis; .*data, fsdp"),
        use_mesh(SIXTY_FOUR, ((Role.BATCH, ("dta",)),)),
    ):
        pass
    with pytest.raises(ValueError, match="not a logical axis"):
        mesh_axes("batch sequence")


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (
            "batch sequence embed",
            P(("data", "fsdp", "node", "expert"), "context", None),
        ),  # sequences take all, the width gets nothing
        (
            "batch sequence heads nope",
            P(("data", "fsdp", "node", "expert"), "context", "tensor", None),
        ),
        ("embed hidden", P(("fsdp", "node", "expert", "context"), "tensor")),
        (
            "layers experts embed expert_hidden",
            P(None, ("node", "expert"), ("fsdp", "context"), "tensor"),
        ),  # embed gets what experts left
        ("embed experts", P(("fsdp", "context"), ("node", "expert"))),  # whichever comes first
        ("heads value embed", P("tensor", None, ("fsdp", "node", "expert", "context"))),
        ("embed embed", P(("fsdp", "node", "expert", "context"), None)),
        ("- batch sequence", P(None, ("data", "fsdp", "node", "expert"), "context")),
        ("- -", P(None, None)),
        ("", P()),
    ],
)
def test_earlier_rules_go_first(axes, expected):
    with use_mesh(SIXTY_FOUR):
        assert spec(axes) == expected
    assert spec(axes) == P(*[None] * len(axes.split()))  # no mesh, no split


def test_the_order_of_the_rules_decides():
    with use_mesh(SIXTY_FOUR, tuple(reversed(RULES))):
        assert spec("layers experts embed expert_hidden") == P(
            None, None, ("fsdp", "node", "expert", "context"), "tensor"
        )


@pytest.fixture
def own_words():
    """A vocabulary that is not DeepSeek's."""
    return Vocabulary({"images": Role.BATCH, "channels": Role.SHARDED_WIDTH, "pixels": Role.WHOLE})


def test_the_vocabulary_is_the_users(own_words):
    with use(SIXTY_FOUR, own_words):
        assert spec("images pixels channels") == P(
            ("data", "fsdp", "node", "expert"), None, "context"
        )
        assert spec("pixels channels") == P(None, ("fsdp", "node", "expert", "context"))
        with pytest.raises(ValueError, match=r"'batch' is not a logical axis; .*images, channels"):
            constrain(jnp.zeros((2, 2)), "batch channels")


def test_an_axis_from_outside_is_placed_like_a_known_one(own_words):
    own_words.declare({"groups": "channels"})
    own_words.declare({"groups": "channels", "more_groups": "groups"})  # once more is allowed
    with use(SIXTY_FOUR, own_words):
        assert spec("groups") == spec("more_groups") == spec("channels")
        assert spec("groups channels") == P(
            None, ("fsdp", "node", "expert", "context")
        )  # the known axis goes first


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        ({"groups": "widgets"}, "'widgets' is not a logical axis; .*images"),
        ({"pixels": "channels"}, "'pixels' exists and is not placed like 'channels'"),
        ({"two words": "channels"}, "'two words' cannot name a logical axis"),
    ],
)
def test_a_declaration_that_cannot_hold_is_refused(own_words, like, sentence):
    with pytest.raises(ValueError, match=sentence):
        own_words.declare(like)
    assert list(own_words) == ["images", "channels", "pixels"]


def test_an_attention_from_outside_declares_its_axis():
    declare_axes({"kv_heads": "heads"})
    assert constrain(jnp.ones((2, 2)), "batch kv_heads").shape == (2, 2)
    with use_mesh(SIXTY_FOUR):
        assert spec("embed kv_heads nope") == spec("embed heads nope")


def test_without_a_mesh_arrays_stay_where_they_are():
    x = jnp.ones((4, 4))
    assert constrain(x, "batch embed") is x
    assert local(abs, "batch", "batch") is abs
    assert mesh_axes("batch") == ()
    assert split_by("batch") == 1
    with pytest.raises(RuntimeError, match="no mesh is in use"):
        sharding("batch")


def test_use_ends_with_its_block():
    with use_mesh(SIXTY_FOUR):
        with use_mesh(MeshConfig(data=8)):
            assert split_by("batch") == 8
        assert split_by("batch") == 16
        assert split_by("heads") == 2
        with pytest.raises(ZeroDivisionError), use_mesh(MeshConfig(tensor=8)):
            raise ZeroDivisionError
        assert split_by("heads") == 2
    assert split_by("heads") == 1


def test_constrain_lays_out():
    with use_mesh(MeshConfig(data=2, fsdp=2, tensor=2)):
        x = jax.jit(lambda x: constrain(x + 1, "batch hidden"))(jnp.zeros((8, 8)))
        assert x.sharding.shard_shape(x.shape) == (2, 4)


@pytest.mark.parametrize("opaque", [False, True])
def test_local_sums_the_gradient_of_what_it_was_given_whole(opaque):
    x, w = (
        np.arange(16.0, dtype=np.float32).reshape(8, 2),
        np.array([[1.0, -2], [3, 0.5]], np.float32),
    )

    def total(w, x):
        return (
            local(lambda x, w: jnp.tanh(x @ w), ("batch -", "- -"), "batch -", opaque)(x, w) ** 2
        ).sum()

    alone = jax.grad(total)(w, x)
    with use_mesh(MeshConfig(data=2, fsdp=2, expert=2)):
        np.testing.assert_allclose(jax.jit(jax.grad(total))(w, x), alone, rtol=1e-6)


def test_an_opaque_body_must_be_split_by_all():
    with (
        use_mesh(MeshConfig(data=4, tensor=2)),
        pytest.raises(ValueError, match=r"'batch -' by every mesh axis.* tensor"),
    ):
        local(abs, ("batch -",), "batch -", opaque=True)


def test_one_function_traced_for_two_meshes():
    @jax.jit
    def parts(x):
        return x + split_by("batch")

    for config, expected in ((MeshConfig(data=8), 8), (MeshConfig(data=2, tensor=4), 2)):
        with use_mesh(config):
            assert parts(0) == expected
    for config, expected in ((MeshConfig(data=8), 8), (MeshConfig(data=2, tensor=4), 2)):
        with use_mesh(abstract_mesh(config, 8)):
            assert str(parts.trace(0).jaxpr).count(f" {expected}") == 1  # nor from an abstract one


def test_named_arrays_carry_their_axes():
    box = Named(jnp.zeros((3, 4)), "embed heads").add_axis(0, {"partition_name": "layers"})
    assert box.axes == "layers embed heads"
    assert box.remove_axis(0, {}).axes == "embed heads"
    tree = {"w": box, "count": jnp.zeros(())}
    assert axes_of(tree) == {"w": "layers embed heads", "count": ""}
    assert jax.tree.map(jnp.shape, unbox(tree)) == {"w": (3, 4), "count": ()}
    with use_mesh(SIXTY_FOUR):
        layouts = jax.tree.map(sharding, axes_of(tree))
        assert layouts["w"].spec == P(None, ("fsdp", "node", "expert", "context"), "tensor")
        assert layouts["count"].spec == P()
        assert sharding("- heads").shard_shape((3, 4)) == (3, 2)


def test_batches_are_split_by_sequences():
    rows = np.arange(32).reshape(16, 2)
    with use_mesh(MeshConfig(data=2, fsdp=2, expert=2)):
        batch = put_batch({"tokens": rows}, "batch sequence")["tokens"]
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(batch, rows)
