"""Settings of a chat template, such as V3.1's `thinking`: from a command line into the template.

They become the template's own defaults, so that they are saved with it: a tuned model that is
opened later, here or elsewhere, gets the prompts that it was trained with.
"""

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import nodes

from seekjax.data.template_sandbox import LONGEST, Sandbox
from seekjax.errors import DataError, need

# not for users to set
OWN = ("messages", "tools", "documents", "bos_token", "eos_token", "add_generation_prompt")


def with_defaults(source: str, settings: Sequence[str]) -> str:
    """Return the template with settings, each NAME=VALUE, as defaults of its variables.

    A value is true, false, none, a number, or else a text.

    Raises:
        DataError: a setting has no value, or the template has no variable of that name.
    """
    if not settings or not isinstance(source, str) or len(source) > LONGEST:
        return source  # which is refused when it is compiled

    variables = _variables(source)
    lines = []
    for setting in settings:
        name, equals, value = setting.partition("=")
        need(
            equals and name.isidentifier() and name not in OWN,
            f"{setting!r} is not a setting of a chat template: write NAME=VALUE, as thinking=true.",
            DataError,
        )
        need(
            name in variables,
            f"the chat template has no setting {name!r}: a template of another model may have it.",
            DataError,
        )
        literal = json.dumps(_value(value), ensure_ascii=False).replace("null", "none")
        lines.append(
            f"{{% if {name} is not defined %}}{{% set {name} = {literal} %}}{{% endif %}}\n"
        )
    return "".join(lines) + source


def _value(text: str) -> Any:
    """Return true, false, none or a number for its text, and any other text as it is."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _variables(source: str) -> set[str]:
    """Return the names in a template. Raises DataError if it is not valid Jinja."""
    try:
        tree = Sandbox().parse(source)
    except Exception as error:  # whatever a stranger's template does to the parser
        reason = str(error).partition("\n")[0]
        raise DataError(f"the chat template is not valid Jinja: {reason}.") from error
    return {node.name for node in tree.find_all(nodes.Name)}
