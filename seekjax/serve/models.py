"""/v1/models, /tokenize, /detokenize, /tokenizer_info: the model and its tokens."""

from typing import Any

from seekjax.serve.chat import read_template_settings, read_thinking
from seekjax.serve.chat_messages import read_messages
from seekjax.serve.completions import check_ids, read_text
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import RequestError
from seekjax.serve.fields import Field, read_fields
from seekjax.serve.served import ServedModel
from seekjax.serve.tool_fields import check_tools

TOKENIZE_FIELDS = {
    "model": Field("string"),
    "prompt": Field("string"),
    "messages": Field("array", 1, 4096),
    "tools": Field("array", 0, 128),
    "thinking": Field("object|boolean"),
    "chat_template_kwargs": Field("object"),
    "add_special_tokens": Field("boolean"),
    "return_token_strs": Field("boolean"),
}
DETOKENIZE_FIELDS = {
    "model": Field("string"),
    "tokens": Field("array", 0, required=True),
}


def model_list(served: ServedModel) -> dict[str, Any]:
    """Return the answer of /v1/models: the model under each of its names."""
    models = []
    for name in (served.name, *served.aliases):
        models.append(model_entry(name, served))
    return {"object": "list", "data": models}


def model_entry(name: str, served: ServedModel) -> dict[str, Any]:
    """Return one model. Raises RequestError with status 404 for a name that there is not."""
    served.check_name(name)
    run = served.run
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "seekjax",
        "root": served.name,
        "max_model_len": served.context,
        "run": {
            "name": served.name,
            "step": run.step,
            "hash": run.hash,
            "context": served.context,
            "experts": list(run.experts),
            "draft": run.draft,
            "thinking": served.thinking,
        },
    }


def tokenize(body: dict[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return the tokens of a text or of a conversation, in vLLM's form.

    Names of special tokens in a text are those tokens. Raises RequestError.
    """
    values = read_fields(body, TOKENIZE_FIELDS)
    served.check_name(values.get("model"))
    if "messages" in values:
        conversation = Conversation(read_messages(values["messages"]))
        conversation.tools = values.get("tools", [])
        check_tools(conversation.tools)
        conversation.thinking = read_thinking(values)
        conversation.template_settings = read_template_settings(values)
        ids = served.prompt(conversation).ids
    elif "prompt" in values:
        ids = read_text(values["prompt"], values, served)
    else:
        raise RequestError("prompt is missing: send a prompt or messages.", param="prompt")

    answer: dict[str, Any] = {"count": len(ids), "max_model_len": served.context, "tokens": ids}
    if values.get("return_token_strs", False):
        answer["token_strs"] = list(map(served.texts.text, ids))
    return answer


def detokenize(body: dict[str, Any], served: ServedModel) -> dict[str, Any]:
    """Return the text of tokens, with the names of special ones. Raises RequestError."""
    values = read_fields(body, DETOKENIZE_FIELDS)
    served.check_name(values.get("model"))
    if values["tokens"]:
        check_ids(values["tokens"], "tokens", served)
    return {"prompt": served.tokenizer.decode(values["tokens"], special=True)}


def tokenizer_info(served: ServedModel) -> dict[str, Any]:
    """Return the template and the names of tokens, by which lm-eval uses the two routes above."""
    tokenizer = served.tokenizer
    return {
        "tokenizer_class": "Tokenizer",
        "chat_template": served.template.source,
        "bos_token": tokenizer.name_of(tokenizer.begin),
        "eos_token": tokenizer.name_of(tokenizer.stops[0]),
        "pad_token": tokenizer.name_of(tokenizer.pad),
        "vocab_size": tokenizer.size,
    }
