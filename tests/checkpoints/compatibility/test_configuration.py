"""What files around the weights say differently, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import plan
from tests.checkpoints.building import save


def folder(path: Path, **files: Any) -> Path:
    """A directory of one tensor; ``__`` in a name of a file is a slash, ``_`` a dot."""
    save(path / "model.safetensors", {"w": np.ones(2)})
    for name, contents in files.items():
        place = path / name.replace("__", "/").replace("_json", ".json")
        place.parent.mkdir(exist_ok=True)
        text = contents if isinstance(contents, str) else json.dumps(contents)
        place.write_text(text)
    return path


def notes(tmp_path: Path, first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    members = [folder(tmp_path / "a", **first), folder(tmp_path / "b", **second)]
    return [note.replace(f"{tmp_path}/", "") for note in plan(members).notes]


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("model_type", "llama", "mistral"),
        ("num_attention_heads", 2, 4),
        ("num_key_value_heads", 1, 2),
        ("rope_theta", 1e4, 1e6),
        ("hidden_act", "gelu", "relu"),
        ("layer_norm_eps", 1e-5, 1e-12),
        ("id2label", {"0": "yes", "1": "no"}, {"0": "no", "1": "yes"}),
        ("text_config", {"n_head": 2}, {"n_head": 4}),
        # arcee-ai/mergekit#325: merged without a word, and of no use.
        ("rope_parameters", {"rope_theta": 5e5}, {"rope_theta": 2e7}),
        ("rope_scaling", None, {"rope_type": "llama3", "factor": 8.0}),
    ],
)
def test_what_changes_the_same_tensors_is_told_more_strongly_than_a_dropout(
    tmp_path: Path, key: str, one: Any, other: Any
) -> None:
    (note,) = notes(
        tmp_path, {"config_json": {key: one}}, {"config_json": {key: other}}
    )
    assert note.startswith(
        "config.json of b differs from that of a, the first member, in "
    )
    assert "models of these configurations compute" in note
    assert key in note


@pytest.mark.parametrize(
    ("key", "one", "other", "n_notes"),
    [
        ("initializer_range", 0.02, 0.1, 1),
        ("max_position_embeddings", 512, 1024, 1),
        ("attention_dropout", 0.0, 0.1, 0),
        ("_name_or_path", "x", "y", 0),
        ("transformers_version", "4.1", "5.0", 0),
    ],
)
def test_what_changes_little_is_told_plainly_or_not_at_all(
    tmp_path: Path, key: str, one: Any, other: Any, n_notes: int
) -> None:
    found = notes(tmp_path, {"config_json": {key: one}}, {"config_json": {key: other}})
    assert len(found) == n_notes
    assert not any("these configurations" in note for note in found)


@pytest.mark.parametrize(
    ("name", "one", "other", "words"),
    [
        (
            "generation_config_json",
            {"temperature": 1},
            {"temperature": 2},
            "temperature",
        ),
        # unslothai/unsloth#5386, huggingface/open-r1#663: generation never stops.
        (
            "tokenizer_config_json",
            {"eos_token": "<eos>"},
            {"eos_token": "<t>"},
            "eos_t",
        ),
        (
            "generation_config_json",
            {"eos_token_id": 1},
            {"eos_token_id": [1, 6]},
            "eos",
        ),
        ("special_tokens_map_json", {"pad": "<p>"}, {"pad": "</s>"}, "pad"),
        ("preprocessor_config_json", {"size": 224}, {"size": 384}, "size"),
        ("tokenizer_config_json", {"chat_template": "x"}, {}, "chat_template"),
        ("chat_template.jinja", "{{ a }}", "{{ b }}", "chat_template.jinja of b"),
        ("modeling_own.py", "x = 1", "x = 2", "modeling_own.py of b"),
        ("processor_config_json", {"a": {"b": 1}}, {"a": {"b": 2}}, "a.b"),
    ],
)
def test_files_that_differ_are_told_by_name_and_key(
    tmp_path: Path, name: str, one: Any, other: Any, words: str
) -> None:
    (note,) = notes(tmp_path, {name: one}, {name: other})
    assert words in note
    assert "differ from those of a, the first member, which the result has" in note


def test_a_module_whose_configuration_differs_is_told(tmp_path: Path) -> None:
    modules = [{"path": "", "type": "T"}, {"path": "1_Pooling", "type": "P"}]
    mean, first = {"pooling_mode": "mean"}, {"pooling_mode": "cls"}
    (note,) = notes(
        tmp_path,
        {"modules_json": modules, "1_Pooling__config_json": mean},
        {"modules_json": modules, "1_Pooling__config_json": first},
    )
    assert "1_Pooling/config.json (in pooling_mode) of b differ" in note


def test_a_file_that_the_first_lacks_is_told(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, {}, {"chat_template.jinja": "x", "notes.txt": "y"})
    assert note.startswith("chat_template.jinja of b are not in the result")


def test_versions_and_cards_are_no_difference(tmp_path: Path) -> None:
    versions = [{"__version__": {"transformers": v}} for v in ("4", "5")]
    first, second = (
        {
            "config_sentence_transformers_json": v,
            "generation_config_json": {"transformers_version": f"{i}"},
            "README.md": f"card {i}",
        }
        for i, v in enumerate(versions)
    )
    assert [n for n in notes(tmp_path, first, second) if "README.md" not in n] == []


def test_the_same_keys_in_another_order_are_no_difference(tmp_path: Path) -> None:
    first = {"generation_config_json": '{"a": 1, "b": 2}'}
    assert notes(tmp_path, first, {"generation_config_json": '{"b": 2, "a": 1}'}) == []


def test_tokenizers_in_different_formats_are_told(tmp_path: Path) -> None:
    """arcee-ai/mergekit#169: tokenizer.json beside tokenizer.model alone."""
    found = notes(tmp_path, {"tokenizer_json": {}}, {"tokenizer.model": "x"})
    assert any(note.startswith("the tokenizers cannot be compared") for note in found)


def test_what_many_members_have_in_common_is_one_note(tmp_path: Path) -> None:
    """Eight fine-tunes of one base, whose trainers wrote a few settings apart."""
    members = []
    for number in range(8):
        odd = number % 2
        members.append(
            folder(
                tmp_path / f"m{number}",
                config_json={
                    "transformers_version": f"4.{number}",
                    "dtype": ("float32", "bfloat16")[odd],
                    "_name_or_path": f"org/m{number}",
                    "use_cache": bool(odd),
                    "max_position_embeddings": 512 << odd,
                },
                tokenizer_config_json={
                    "name_or_path": f"org/m{number}",
                    "model_max_length": 512 << odd,
                },
            )
        )
    listed = [f"{tmp_path}/m{number}" for number in (1, 3, 5, 7)]
    settings, tokenizer = plan(members).notes
    for note in (settings, tokenizer):
        assert ", ".join(listed) in note
