"""The prediction module as a draft (V3 section 5.4.3): it guesses the next token, and the main
model reads newest and guess in one step.

With q the distribution the guess d was drawn from and p the one that is wanted, d is kept with
probability min(1, p(d) / q(d)), and replaced otherwise by a draw from max(p - q, 0), normalised:
what is written has distribution p exactly (2211.17192). At temperature 0 both are certain, and the
rule reads: keep the guess if it is the likeliest token.
"""

import jax
import jax.numpy as jnp

from seekjax.generate.sampling import SamplingArrays, at, draw, shape
from seekjax.generate.state import Decoder, State, head, last, newest, push
from seekjax.model.mtp import PredictionModule, ahead
from seekjax.model.rope import angles

DRAW, GUESS, JUDGE = 0, 1, 2  # uses of a position's randomness


def predict(
    decoder: Decoder, variables: dict, hidden_BTD, next_BT, cache: dict, start, **how
) -> tuple[jax.Array, dict]:
    """The first prediction module on the main model's hidden states at `start` and on, and the
    tokens that followed them."""
    B, T = next_BT.shape
    angle = angles(
        decoder.model, jnp.broadcast_to(jnp.reshape(start, (-1, 1)) + jnp.arange(T), (B, T))
    )
    own = {kind: tree["mtp_1"] for kind, tree in variables.items() if "mtp_1" in tree}
    module = PredictionModule(decoder.model, decoder.kernel_for(B * T))
    token_BTD = variables["params"]["embed"][next_BT]
    x_BTD, (cache, _) = module.apply(
        own, hidden_BTD, token_BTD, angle, None, jnp.ones((B, T), bool), cache, start, **how
    )
    return x_BTD, cache


def first_draft(
    decoder: Decoder, variables: dict, state: State, output, length_B, sampling: SamplingArrays
) -> State:
    """The guess after a prefill, which also fills the module's cache: position i reads h_i and the
    token at i + 1."""
    T = output.hidden_BTD.shape[1]
    x_BTD, cache = predict(
        decoder,
        variables,
        output.hidden_BTD,
        ahead(state.tokens_BS, 1, T),
        state.draft["cache"],
        0,
        attend=None,
    )
    return guess(state, last(x_BTD, length_B), output.head_DV, cache, sampling)


def guess(state: State, x_BD, head_DV, cache: dict, sampling: SamplingArrays) -> State:
    """Draw the token expected at length_B, and remember from which distribution."""
    logit_BV = shape(head(x_BD, head_DV), sampling)
    token_B = draw(at(state.key_B, state.length_B, GUESS), logit_BV)
    return state.replace(draft={"cache": cache, "token_B": token_B, "logit_BV": logit_BV})


def step_with_draft(
    decoder: Decoder, variables: dict, state: State, sampling: SamplingArrays, stop_X
) -> State:
    """One or two tokens more for every live row.

    What the main model wrote in its cache for a guess that failed lies one slot beyond the row's
    newest token: the next step overwrites it.
    """
    start_B, draft, live_B = state.length_B - 1, state.draft, ~state.done_B
    output = decoder.run(
        variables,
        jnp.concatenate([newest(state), draft["token_B"][:, None]], 1),
        state.cache,
        start_B,
    )
    h_BTD, head_DV = output.hidden_BTD, output.head_DV
    logit_BV, beyond_BV = head(h_BTD[:, 0], head_DV), head(h_BTD[:, 1], head_DV)

    kept_B, token_B = judge(
        state.key_B, state.length_B, draft["token_B"], shape(logit_BV, sampling), draft["logit_BV"]
    )
    state = push(
        state.replace(cache=output.cache, rounds=state.rounds + live_B.sum()),
        token_B,
        logit_BV,
        live_B,
        stop_X,
    )
    second_B = kept_B & live_B & ~state.done_B
    state = state.replace(accepted=state.accepted + (kept_B & live_B).sum())
    then_B = draw(at(state.key_B, state.length_B), shape(beyond_BV, sampling))
    state = push(state, then_B, beyond_BV, second_B, stop_X)

    x_BTD, cache = predict(
        decoder, variables, h_BTD, jnp.stack([token_B, then_B], 1), draft["cache"], start_B
    )
    return guess(
        state, jnp.where(second_B[:, None], x_BTD[:, 1], x_BTD[:, 0]), head_DV, cache, sampling
    )


def judge(key_B, position_B, guess_B, wanted_BV, drawn_BV) -> tuple[jax.Array, jax.Array]:
    """Whether each guess, drawn from softmax(drawn_BV), is kept, and the token that stands there
    now, distributed as softmax(wanted_BV)."""
    p_BV, q_BV = jax.nn.softmax(wanted_BV, -1), jax.nn.softmax(drawn_BV, -1)
    p_B, q_B = (jnp.take_along_axis(a, guess_B[:, None], 1)[:, 0] for a in (p_BV, q_BV))
    luck_B = jax.vmap(jax.random.uniform)(at(key_B, position_B, JUDGE))
    kept_B = luck_B * q_B < p_B
    rest_BV = jnp.maximum(p_BV - q_BV, 0)
    other_B = draw(at(key_B, position_B), jnp.log(rest_BV))
    return kept_B, jnp.where(kept_B, guess_B, other_B)
