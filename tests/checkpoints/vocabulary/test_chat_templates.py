"""Chat templates by name, and the one that most models have."""

import json
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ensembles.checkpoints.vocabulary.chat_templates import (
    TEMPLATES,
    chosen_template,
    template_of,
    with_template,
)
from ensembles.checkpoints.vocabulary.tokenizer import Tokenizer

CHAT = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Go")]
# The formats that the models were trained on.
PROMPTS = {
    "alpaca": "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nYes?\n\n"
    "### Instruction:\nGo\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nGo<|im_end|>\n"
    "<|im_start|>assistant\n",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n"
    "[|assistant|]Yes?[|endofturn|]\n[|user|]Go\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nGo<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be kind.\n\nHi [/INST] Yes?</s> [INST] Go [/INST]",
}


def tokenizer_of(config: dict[str, Any], **files: bytes) -> Tokenizer:
    files["tokenizer_config.json"] = json.dumps(config).encode()
    return Tokenizer("m", {}, {}, {n.replace("__", "."): f for n, f in files.items()})


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_write_the_prompts_of_their_models(name: str) -> None:
    settings = {"trim_blocks": True, "lstrip_blocks": True}  # of transformers
    template = ImmutableSandboxedEnvironment(**settings).from_string(TEMPLATES[name])
    prompt = template.render(
        messages=[{"role": role, "content": text} for role, text in CHAT],
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert prompt == PROMPTS[name]


def test_auto_takes_the_template_of_most_models() -> None:
    tokenizers = [
        tokenizer_of({"chat_template": "{{ a }}"}),
        tokenizer_of({}, chat_template__jinja=b"{{ b }}\n"),
        tokenizer_of({"chat_template": [{"name": "default", "template": "{{ b }}"}]}),
        tokenizer_of({}),
    ]
    assert chosen_template("auto", tokenizers) == "{{ b }}"
    assert chosen_template("auto", tokenizers[3:]) is None


def test_a_wrong_name_is_an_error_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match="found 'chatlm'; did you mean 'chatml'"):
        chosen_template("chatlm", [])
    assert chosen_template("{{ messages }}", []) == "{{ messages }}"


def test_a_new_template_replaces_the_files_of_the_old_one() -> None:
    old = tokenizer_of({"eos_token": "x"}, chat_template__jinja=b"{{ old }}")
    new = with_template(old, "{{ new }}")
    assert template_of(new) == "{{ new }}"
    assert [*new.files] == ["tokenizer_config.json"]
    assert new.config["eos_token"] == "x"
