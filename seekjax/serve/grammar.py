"""Structured output: what an answer must match, as a mask of the tokens that may come next.

llguidance compiles JSON schemas, regular expressions and Lark grammars, and follows an answer
through them on the host; the sampler on the device takes its masks. An answer that ends by itself
matches; one that ends at max_tokens is a beginning of one that does.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import llguidance
import numpy as np

from seekjax.data.tokenizer import Tokenizer
from seekjax.serve.errors import RequestError, need_field
from seekjax.serve.fields import Field, read_fields

# Options of llguidance for JSON: a model that repeats blanks between values does so without end,
# and 32 are enough to indent; oneOf is treated as anyOf.
JSON_OPTIONS = {"whitespace_pattern": r"[ \t\r\n]{1,32}", "coerce_one_of": True}
# Bounds of the work that a grammar may cause: a pattern with two nested counts of 1000 takes 3 s
# with llguidance's own, and 20 patterns that must match at once take 15 s whatever they are.
LIMITS = {"initial_lexer_fuel": 100_000, "verbose_errors": False}
MOST_AT_ONCE = 8
LONGEST = 65_536  # characters of a regular expression or a grammar
LONGEST_REASON = 300  # characters of llguidance's sentence

FORMAT = {
    "type": Field("string", choices=("text", "json_object", "json_schema"), required=True),
    "json_schema": Field("object"),
}
SCHEMA = {"schema": Field("object", required=True)}
STRUCTURED = {
    "json": Field("object|string"),
    "json_object": Field("boolean"),
    "regex": Field("string", 0, LONGEST),
    "choice": Field(
        "array",
        1,
        1000,
        items=Field("string", 1),
    ),
    "grammar": Field("string", 0, LONGEST),
}


class Grammar(NamedTuple):
    """The texts that an answer may be, in llguidance's notation."""

    source: str
    param: str  # the field of the request that it comes from


def of_schema(
    schema: Any,
    param: str,
    lenient: bool = False,
) -> Grammar:
    """Return the grammar of the JSON values that a schema, an object or its text, allows.

    A keyword that llguidance does not have is refused, or ignored if `lenient`. Raises RequestError
    for a text that is not JSON.
    """
    options: Any = {**JSON_OPTIONS, "lenient": lenient}
    try:
        if isinstance(schema, str):
            schema = json.loads(schema)
        source = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=options)
    except (ValueError, RecursionError) as error:
        raise _refusal(str(error), param) from error
    check_at_once(schema, param)
    return Grammar(source, param)


def check_at_once(schema: Any, param: str) -> None:
    """Raise RequestError for a schema in which too many others must hold at the same time."""
    try:
        count = _all_of(schema)
    except RecursionError as error:
        raise _refusal("it is nested too deeply", param) from error
    need_field(
        count <= MOST_AT_ONCE,
        param,
        f"has {count} schemas in allOf behind the first of each: {MOST_AT_ONCE} are the most.",
    )


def of_regex(pattern: str, param: str) -> Grammar:
    """Return the grammar of the texts that a regular expression matches from end to end."""
    return Grammar(llguidance.LLMatcher.grammar_from_regex(pattern), param)


def of_choice(texts: Sequence[str], param: str) -> Grammar:
    """Return the grammar of these texts."""
    return Grammar(f"start: {' | '.join(map(quoted, texts))}", param)


def of_lark(text: str, param: str) -> Grammar:
    """Return the grammar of a text in Lark's notation, or in llama.cpp's (GBNF).

    Raises RequestError for a text in neither.
    """
    need_field(text.count("&") <= MOST_AT_ONCE, param, f"has more than {MOST_AT_ONCE} signs &.")
    need_field(not text.lstrip().startswith("{"), param, "is in neither notation.")
    try:
        return Grammar(llguidance.grammar_from("grammar", text), param)
    except ValueError as error:
        raise _refusal(str(error), param) from error


def nested(answer: Grammar, start: str) -> Grammar:
    """Return the grammar `start` in Lark's notation, in which @answer is another grammar."""
    inner = {"lark_grammar": answer.source}
    if answer.source.startswith("{"):  # llguidance's JSON, of one grammar
        [inner] = json.loads(answer.source)["grammars"]
    grammars = [{"name": "start", "lark_grammar": start}, {**inner, "name": "answer"}]
    return Grammar(json.dumps({"grammars": grammars}), answer.param)


def quoted(text: str) -> str:
    """Return a text as a literal of Lark's notation."""
    return json.dumps(text, ensure_ascii=False)


def read_grammar(values: Mapping[str, Any]) -> Grammar | None:
    """Return what the answer must match by `response_format` or `structured_outputs`.

    The first is OpenAI's field, the second vLLM's. Raises RequestError if both say something, or
    one is not as theirs.
    """
    grammars = []
    if values.get("response_format") is not None:
        grammars.append(read_format(values["response_format"], "response_format", "json_schema"))
    if values.get("structured_outputs") is not None:
        grammars.append(_read_structured(values["structured_outputs"]))

    given = [grammar for grammar in grammars if grammar is not None]
    need_field(
        len(given) < 2,
        "structured_outputs",
        "and response_format both say what the answer must match: send one of them.",
    )
    return given[0] if given else None


def read_format(
    value: Any,
    param: str,
    nested: str = "",
) -> Grammar | None:
    """Return the grammar of OpenAI's object for the format of a text, None for any text.

    Chat has the schema in a `nested` object; responses have it in the object itself.
    """
    need_field(isinstance(value, dict), param, 'must be an object, as {"type": "json_object"}.')
    kind = read_fields(value, FORMAT, param)["type"]
    if kind == "text":
        return None
    if kind == "json_object":
        return of_schema({"type": "object"}, param)

    if nested:
        param = f"{param}.{nested}"
        value = value.get(nested)
        need_field(isinstance(value, dict), param, "must be an object with a name and a schema.")
    return of_schema(read_fields(value, SCHEMA, param)["schema"], f"{param}.schema")


def _read_structured(value: Any) -> Grammar | None:
    """Return the grammar of vLLM's structured_outputs, None if it is empty."""
    need_field(isinstance(value, dict), "structured_outputs", "must be an object.")
    given = read_fields(value, STRUCTURED, "structured_outputs")
    if given.get("json_object") is False:
        del given["json_object"]
    if not given:
        return None
    need_field(
        len(given) == 1,
        "structured_outputs",
        f"has {' and '.join(given)}: it must have one of {', '.join(STRUCTURED)}.",
    )

    [(name, content)] = given.items()
    param = f"structured_outputs.{name}"
    if name == "json_object":
        return of_schema({"type": "object"}, param)
    read = {
        "json": of_schema,
        "regex": of_regex,
        "choice": of_choice,
        "grammar": of_lark,
    }
    return read[name](content, param)


class GrammarFilter:
    """The tokens that may come next in a text: a TokenFilter of the engine."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        words: int,
        param: str,
    ):
        """Follow a grammar, which comes from the field `param`, with masks of `words` numbers."""
        self._matcher = matcher
        self._words = words
        self._param = param

    def mask(self) -> np.ndarray:
        """Return the allowed tokens, uint32 [ceil(V / 32)].

        Raises RequestError if the grammar takes too much work here, or if no text matches it.
        """
        bits = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _refusal(self._matcher.get_error(), self._param, "followed further")
        return np.frombuffer(bits, np.uint32)[: self._words]

    def accept(self, id: int) -> None:
        """Advance by one token; behind the end of the text only another end may come."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(id)


class Grammars:
    """Compiles grammars for one tokenizer, which takes a second to prepare if it is V3's."""

    def __init__(self, tokenizer: Tokenizer):
        """Prepare a tokenizer."""
        vocab = len(tokenizer.bytes_V)
        self._words = (vocab + 31) // 32
        self._limits = llguidance.LLParserLimits(**LIMITS)
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer.to_json(),
            n_vocab=vocab,
            eos_token=list(tokenizer.stops),
        )

    def filter(self, grammar: Grammar) -> GrammarFilter:
        """Return the filter of one text.

        Takes up to a second for a large grammar. Raises RequestError with llguidance's sentence if
        it rejects the grammar.
        """
        matcher = llguidance.LLMatcher(
            self._tokenizer,
            grammar.source,
            log_level=0,
            limits=self._limits,
        )

        # The first mask is the most expensive one, and shows some errors.
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise _refusal(matcher.get_error(), grammar.param)
        return GrammarFilter(matcher, self._words, grammar.param)


def _all_of(schema: Any) -> int:
    """Return how many schemas must hold in addition to the first one of each allOf."""
    count = 0
    if isinstance(schema, Mapping):
        parts = schema.get("allOf")
        if isinstance(parts, list):
            count = max(0, len(parts) - 1)
        schema = list(schema.values())
    if isinstance(schema, list):
        count += sum(map(_all_of, schema))
    return count


def _refusal(
    reason: str,
    param: str,
    what: str = "followed",
) -> RequestError:
    """Return the error for a grammar that llguidance rejects, at once or within an answer."""
    return RequestError(f"{param} cannot be {what}: {_sentence(reason)}", param=param)


def _sentence(reason: str) -> str:
    """Return llguidance's reason on one line, without its state, cut where it is long."""
    if reason.startswith("panic"):
        return "it is too large."
    if reason.startswith("NoExtension"):  # NoExtensionBias
        return "no text that begins like the answer matches it."
    text = " ".join(reason.partition("\n<")[0].split()).rstrip(".")
    return f"{text}." if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."
