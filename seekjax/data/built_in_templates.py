"""DeepSeek's chat templates, by name.

Without tools they write what the templates in the published tokenizer_config.json files write. Tool
calls and outputs are written as V3-0324 and R1-0528 do, and the tools of a conversation as the
model card of V2.5 shows them, with the same call format; the published templates leave the tools to
the system message. V2 has no format of tools.
"""

from typing import Any

# The texts are saved next to tuned models and compared, so each newline counts.
_TOOLS = (
    "{% if tools %}"
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ '## Tools\n\n### Function\n\nYou have the following functions available:\n' }}"
    "{% for tool in tools %}{{ '\n- `' + tool['function']['name'] + '`:\n```json\n' }}"
    "{{ tool['function'] | tojson(indent=4) }}{{ '\n```' }}{% endfor %}{% endif %}"
)
_CALLS = (
    "{% if m['tool_calls'] %}<｜tool▁calls▁begin｜>{% for call in m['tool_calls'] %}"
    "{% if not loop.first %}{{ '\n' }}{% endif %}"
    "<｜tool▁call▁begin｜>{{ call['type'] }}<｜tool▁sep｜>{{ call['function']['name'] }}"
    "{{ '\n```json\n' }}{% if call['function']['arguments'] is string %}"
    "{{ call['function']['arguments'] }}{% else %}"
    "{{ call['function']['arguments'] | tojson }}{% endif %}"
    "{{ '\n```' }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}"
)
_OUTPUT = (
    "{% if loop.first or loop.previtem['role'] != 'tool' %}<｜tool▁outputs▁begin｜>"
    "{% else %}{{ '\n' }}{% endif %}"
    "<｜tool▁output▁begin｜>{{ m['content'] }}<｜tool▁output▁end｜>"
    "{% if loop.last or loop.nextitem['role'] == 'assistant' %}<｜tool▁outputs▁end｜>{% endif %}"
)
_TURNS = (
    "{{ bos_token }}" + _TOOLS + "{% for m in messages %}"
    "{% if m['role'] == 'system' %}"
    "{% if not (tools and loop.first) %}{{ m['content'] }}{% endif %}"
    "{% elif m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% elif m['role'] == 'tool' %}" + _OUTPUT + "{% else %}"
    "{% if loop.first or loop.previtem['role'] != 'tool' %}<｜Assistant｜>{% endif %}"
    "{{ (m['content'] or '').split('</think>')[-1] }}" + _CALLS + "{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt and not (messages and messages[-1]['role'] == 'tool') %}"
    "<｜Assistant｜>"
)
BUILT_IN = {
    "v2": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ m['content'] + '\n\n' }}\n"
        "{%- elif m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n\n' }}\n"
        "{%- else %}{{ 'Assistant: ' + m['content'] + eos_token }}{% endif %}"
        "{% endfor %}\n"
        "{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    "v3": _TURNS + "{% endif %}",
    "r1": _TURNS + "{{ '<think>\n' }}{% endif %}",  # an answer begins inside the reasoning
}

# The texts that earlier versions saved next to tuned models.
_TURNS_WITHOUT_TOOLS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}\n"
    "{%- elif m['role'] == 'user' %}<｜User｜>{{ m['content'] }}\n"
    "{%- else %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}\n"
    "{%- if add_generation_prompt %}<｜Assistant｜>"
)
WITHOUT_TOOLS = {
    "v3": _TURNS_WITHOUT_TOOLS + "{% endif %}",
    "r1": _TURNS_WITHOUT_TOOLS + "{{ '<think>\n' }}{% endif %}",
}


def with_tools(source: Any) -> Any:
    """Return a template; of one that an earlier version saved, the present text.

    The two render every conversation without tools equally.
    """
    for name, earlier in WITHOUT_TOOLS.items():
        if source == earlier:
            return BUILT_IN[name]
    return source
