"""Chat templates by name, and the one that most models have."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ensembles.checkpoints.vocabulary.tokenizer import CONFIG, Tokenizer

# Files that take precedence over the entry of tokenizer_config.json.
TEMPLATE_FILE = "chat_template.jinja"
OTHER_FILES = "chat_template.json"
FOLDER = "additional_chat_templates/"
LONGEST_NAME = 40

_FOR = "{%- for message in messages -%}"
_END = "{%- endfor -%}"
_PROMPT = "{%- if add_generation_prompt -%}{{- PROMPT -}}{%- endif -%}"
# Formats of prompts of these models, by the names that recipes have for them.
TEMPLATES = {
    "alpaca": _FOR
    + "{%- if message['role'] == 'system' -%}{{- message['content'] | trim -}}"
    + "{%- elif message['role'] == 'user' -%}"
    + "{{- '### Instruction:\\n' + message['content'] | trim -}}"
    + "{%- elif message['role'] == 'user_context' -%}"
    + "{{- '### Input:\\n' + message['content'] | trim -}}"
    + "{%- else -%}{{- '### Response:\\n' + message['content'] | trim -}}{%- endif -%}"
    + "{%- if not loop.last or add_generation_prompt -%}{{- '\\n\\n' -}}{%- endif -%}"
    + _END
    + _PROMPT.replace("PROMPT", "'### Response:\\n'"),
    "chatml": _FOR
    + "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    + "{{- message['content'] + '<|im_end|>\\n' -}}"
    + _END
    + _PROMPT.replace("PROMPT", "'<|im_start|>assistant\\n'"),
    "exaone": "{%- if messages[0]['role'] != 'system' -%}"
    + "{{- '[|system|][|endofturn|]\\n' -}}{%- endif -%}"
    + _FOR
    + "{{- '[|' + message['role'] + '|]' + message['content'] -}}"
    + "{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' -}}"
    + _END
    + _PROMPT.replace("PROMPT", "'[|assistant|]'"),
    "llama3": "{{- bos_token -}}"
    + _FOR
    + "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}"
    + "{{- message['content'] | trim + '<|eot_id|>' -}}"
    + _END
    + _PROMPT.replace(
        "PROMPT", "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'"
    ),
    "mistral": "{{- bos_token -}}{%- set turn = namespace(system='') -%}"
    + _FOR
    + "{%- if message['role'] == 'system' and loop.first -%}"
    + "{%- set turn.system = message['content'] + '\\n\\n' -%}"
    + "{%- elif message['role'] == 'user' -%}"
    + "{{- ' [INST] ' + turn.system + message['content'] + ' [/INST]' -}}"
    + "{%- set turn.system = '' -%}"
    + "{%- elif message['role'] == 'assistant' -%}"
    + "{{- ' ' + message['content'] + eos_token -}}"
    + "{%- else -%}{{- raise_exception('roles must be user and assistant, after an "
    + "optional first system message') -}}{%- endif -%}"
    + _END,
}


def template_of(tokenizer: Tokenizer) -> str | None:
    """Chat template of a tokenizer, None without one."""
    if TEMPLATE_FILE in tokenizer.files:
        return tokenizer.files[TEMPLATE_FILE].decode()
    template = tokenizer.config.get("chat_template")
    if isinstance(template, list):  # several by name
        entries = {entry.get("name"): entry.get("template") for entry in template}
        template = entries.get("default")
    return template if isinstance(template, str) else None


def chosen_template(template: str, tokenizers: Sequence[Tokenizer]) -> str | None:
    """Chat template that a setting describes.

    Parameters
    ----------
    template : str
        "auto" for the template of most models, a name in `TEMPLATES`, or a template.
    tokenizers : sequence of Tokenizer
        Tokenizers of the models, in their order, for "auto".

    Returns
    -------
    str or None
        None if no model has a template.

    Raises
    ------
    ValueError
        If the setting is neither a name nor a template.
    """
    if template == "auto":
        templates = [t.strip() for t in map(template_of, tokenizers) if t]
        return Counter(templates).most_common(1)[0][0] if templates else None
    if problem := template_problem(template):
        raise ValueError(problem)
    return TEMPLATES.get(template, template)


def template_problem(template: str) -> str | None:
    """Problem of a setting that is neither a name nor a template.

    Parameters
    ----------
    template : str
        Setting, as in `chosen_template`.

    Returns
    -------
    str or None
        Error message; None if the setting is valid.
    """
    if template == "auto" or template in TEMPLATES or "{" in template:
        return None
    close = difflib.get_close_matches(template, [*TEMPLATES, "auto"], 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"chat_template must be 'auto', one of {', '.join(TEMPLATES)}, or a Jinja "
        f"template with braces, found {template[:LONGEST_NAME]!r}{hint}"
    )


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """A tokenizer with another chat template, in ``tokenizer_config.json``."""
    files = {
        name: contents
        for name, contents in tokenizer.files.items()
        if name not in (TEMPLATE_FILE, OTHER_FILES) and not name.startswith(FOLDER)
    }
    config = {**tokenizer.config, "chat_template": template}
    files[CONFIG] = json.dumps(config, ensure_ascii=False, indent=2).encode()
    return replace(tokenizer, files=files)
