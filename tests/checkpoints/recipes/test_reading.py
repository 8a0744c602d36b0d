"""Recipes are read by a schema: every problem has its line, and all come at once."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from ensembles.checkpoints import read_recipes
from ensembles.checkpoints.recipes.document import (
    Mixture,
    Recipe,
    TokenEmbedding,
    Tokenizer,
)

GOOD = """\
merge_method: linear
models:
  - model: a
    parameters: {weight: 1}
  - model: b
    parameters: {weight: 2}
"""
TIES = """\
merge_method: ties
base_model: base
parameters: {weight: 1}
"""


def read(tmp_path: Path, text: str | bytes) -> tuple[Recipe | Mixture, ...]:
    path = tmp_path / "recipe.yml"
    path.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
    return read_recipes(path)


def read_one(tmp_path: Path, text: str) -> Recipe:
    (recipe,) = read(tmp_path, text)
    assert isinstance(recipe, Recipe)
    return recipe


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ValueError, match=r"recipe\.yml:") as raised:
        read(tmp_path, text)
    return [
        line.removeprefix(f"{tmp_path}/recipe.yml:")
        for line in str(raised.value).splitlines()
    ]


PROBLEMS = {
    """\
merge_method: slerp
base_model: a
models:
  - model: a
  - model: b
parameters:
  t:
    - filter: mlp
      value:
        - 0
        - 1.5
    - value: -0.1
""": [
        "11: t must be a finite number from 0 to 1, found 1.5",
        "12: t must be a finite number from 0 to 1, found -0.1",
    ],
    GOOD.replace("linear", "multislerp").replace("1}", "-1}").replace("2}", ".inf}"): [
        "4: weight must be a finite number from 0 on, found -1",
        "6: weight must be a finite number from 0 on, found inf",
    ],
    GOOD.replace("1}", ".nan}").replace("2}", "-2}"): [
        "4: weight must be a finite number, found nan",
    ],
    "defaults: &d {weight: 1}\n"
    + GOOD.replace("models", "modelz", 1).replace("{weight: 2}", "*d"): [
        "1: a recipe must have one of models, slices and modules, found none",
        "3: a recipe has no entry 'modelz'; did you mean 'models'?",
    ],
    GOOD.replace("merge_method", "merge_metod"): [
        "1: a recipe has no entry 'merge_metod'; did you mean 'merge_method'?",
        "1: a recipe must have merge_method",
    ],
    GOOD.replace("linear", "liner"): [
        "1: merge_method 'liner' is unknown; did you mean 'linear'?"
    ],
    GOOD.replace("linear", "dare"): ["1: merge_method 'dare' is unknown; "],
    GOOD.replace("weight: 2", "wieght: 2"): [
        "5: linear needs weight for model b; add it under its parameters, or",
        "6: linear has no parameter 'wieght'; did you mean 'weight'?",
    ],
    GOOD.replace("weight: 2", "weight: two"): [
        "6: weight must be a number, found 'two'"
    ],
    GOOD.replace("weight: 2", "weight: true"): ["6: weight must be a number, found T"],
    GOOD.replace("weight: 2", "weight:"): ["6: weight must be a number, found nothing"],
    GOOD.replace("weight: 2", "weight: []"): [
        "6: weight must have at least one value, found []"
    ],
    GOOD.replace("weight: 2", "weight: [0, x]"): [
        "6: weight must be a number, found 'x'"
    ],
    GOOD.replace("weight: 2", "weight: [0, {value: 1}]"): [
        "6: weight must be a list of values (a gradient over the layers), or of "
    ],
    GOOD.replace("weight: 2", "weight: [{filter: mlp}]"): [
        "6: weight must have a value"
    ],
    GOOD.replace("weight: 2", "weight: [{filtr: mlp, value: 1}]"): [
        "6: weight has no entry 'filtr'; did you mean 'filter'?"
    ],
    GOOD.replace("weight: 2", "weight: [{value: [{value: 1}]}]"): [
        "6: value of weight must be a number or a list of them, found a mapping"
    ],
    GOOD.replace("model: b", "model: a"): ["5: model a is also in line 3; list it "],
    GOOD.replace("model: b", "model: 7"): [
        "5: model of a model must be a path, found 7; put it in quotes"
    ],
    GOOD.replace("model: b", "path: b"): [
        "5: a model has no entry 'path'",
        "5: a model must have model",
    ],
    GOOD.replace("model: b", "model: b+c+d"): ["5: model of a model must be a path, o"],
    GOOD + "slices: []\n": [
        "7: a recipe must have one of models, slices and modules, found models and sl",
        "7: slices must not be empty",
    ],
    "merge_method: linear": ["1: a recipe must have one of models, slices and modules"],
    GOOD + "dtype: bfloat61": [
        "7: dtype must be a float format, found 'bfloat61'; did you mean 'bfloat16'?"
    ],
    GOOD + "dtype: [a]": ["7: dtype of a recipe must be a text, found a list"],
    GOOD + "tokenizer_source: base\ntokenizer: {source: union}": [
        "8: a recipe must have tokenizer_source or tokenizer, found both"
    ],
    GOOD + "tokenizer: {pad_to_multiple_of: -1, sauce: a}": [
        "7: pad_to_multiple_of of tokenizer must be a whole number, at least 1, found",
        "7: tokenizer has no entry 'sauce'; did you mean 'source'?",
    ],
    GOOD + "tokenizer: {tokens: {x: {source: {kind: zeros}}}}": [
        "7: kind must be one of zero, model_token, found 'zeros'; did you mean 'zero'?"
    ],
    GOOD + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}": [
        "7: source of token 'x' must have either token or token_id"
    ],
    GOOD + "dtype: float16\ndtype: float32": ["8: 'dtype' is also in line 7; remove"],
    GOOD + "7: x": ["7: keys must be texts, found '7'"],
    GOOD + "[a, b]: x": ["7: keys must be texts, found 'a list'"],
    GOOD + "name: !!python/object/apply:os.system [id]": [
        "7: tag '!!python/object/apply:os.system' is not allowed in a recipe"
    ],
    GOOD + "name: !custom x": ["7: tag '!custom' is not allowed in a recipe"],
    GOOD + "name: 2024-01-01": ["7: '2024-01-01' is read as timestamp; put it in q"],
    GOOD + "\tname: x": [
        "7: this is not valid YAML: found character '\\t' that cannot"
    ],
    GOOD + "name: [x": ["7: this is not valid YAML: expected ',' or ']'"],
    GOOD + "---\n": ["8: a document must not be empty; remove it, with its ---"],
    GOOD + "---\n" + GOOD: ["8: one merge at most may be without a name, the last; n"],
    GOOD + "name: x\n---\n" + GOOD + "name: x": [
        "9: another merge has the name 'x', in line 1"
    ],
    "- a\n- b\n": ["1: a recipe must be a mapping of base_model, "],
    "linear": ["1: a recipe must be a mapping of base_model, "],
    "": ["1: the file is empty; a recipe has merge_method and models"],
    "merge_method: slerp\nbase_model: a\nmodels:\n- model: a\n- model: b\n": [
        "3: slerp needs t; add it under parameters"
    ],
    "merge_method: model_stock\nbase_model: a\nmodels:\n- model: b\n": [
        "3: model_stock needs at least 2 models beside the base, found 1"
    ],
    GOOD.replace("linear", "passthrough"): ["2: passthrough needs 1 model, found 2"],
    TIES.replace("base_model: base\n", "") + "models:\n- model: a\n": [
        "3: ties needs base_model"
    ],
    TIES + "slices:\n- sources:\n  - {model: a, layer_range: [0, 4]}\n": [
        "5: base_model base must be among the sources of each slice"
    ],
    TIES + "slices:\n- sources:\n  - {model: base, layer_range: [4, 0]}\n"
    "  - {model: a, layer_range: 0-4}\n  - {model: b}\n  - model: c\n"
    "    layer_range: [0, x]\n": [
        "6: layer_range must be [first, last + 1] with the first layer from 0 on and b",
        "7: layer_range of a source must be [first, last + 1], two whole numbers, foun",
        "8: a source must have layer_range",
        "10: layer_range of a source must be [first, last + 1], two whole numbers, fou",
    ],
    TIES + "slices:\n- sources:\n  - {model: base, layer_range: [0, 4]}\n"
    "  - {model: a, layer_range: [4, 9]}\n": [
        "5: layer_range of all sources of a slice must have the same number of layers, "
        "found [0, 4], [4, 9]"
    ],
    TIES.replace("1}", "1, rescale: true}") + "models:\n- model: a\n": [
        "3: rescale must be false for this merge_method, found True; other values are"
    ],
    TIES + "chat_template: chatlm\nmodels:\n- model: a\ndtype: float33\n": [
        "4: chat_template must be 'auto', one of alpaca, chatml, exaone, llama3, mi",
        "7: dtype must be a float format, found 'float33'; did you mean 'float32'?",
    ],
    TIES + "modules: {text: {}}": ["4: module 'text' must have either models or slic"],
    "base_model: a\nexperts:\n- source_model: b\n  positive_prompts: x\n"
    "- source_modl: c\ngate_mode: hiden\n": [
        "3: an expert must have positive_prompts for gate_mode 'hidden', from which",
        "4: positive_prompts of an expert must be a list, found 'x'",
        "5: an expert has no entry 'source_modl'; did you mean 'source_model'?",
        "5: an expert must have positive_prompts for gate_mode 'hidden', from which",
        "5: an expert must have source_model",
        "6: gate_mode must be one of hidden, hidden_avg, hidden_last, cheap_embed, ra",
    ],
}


@pytest.mark.parametrize("text", PROBLEMS)
def test_each_problem_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    messages, expected = problems(tmp_path, text), PROBLEMS[text]
    assert len(messages) == len(expected), messages
    for message, start in zip(messages, expected, strict=True):
        assert message.startswith(start)


def test_aliases_that_expand_without_bound_are_refused(tmp_path: Path) -> None:
    levels = [f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9)]
    bomb = "\n".join(["parameters:", "  l0: &l0 [x]", *levels])
    for text in (bomb, "a: &a [*a]", "a: &a {<<: *a}", "[" * 5000, "{a: " * 60):
        (message,) = problems(tmp_path, text)
        assert (
            "20,000 entries, nested at most 50" in message or "at most 50 d" in message
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY\x00", "1: a recipe must be YAML text in UTF-8, found binary data"),
        (b"a: \x00", "1: this is not valid YAML: special characters are not allowed"),
        (b"#" * (1 << 20) + b"\n", "1: a recipe must have at most 1,048,576 bytes"),
    ],
)
def test_files_of_another_kind_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    assert problems(tmp_path, content)[0].startswith(message)


def test_entries_without_effect_become_notes(tmp_path: Path) -> None:
    recipe = read_one(
        tmp_path,
        """\
        merge_method: dare_ties
        base_model: base
        cuda: true
        models:
          - model: base
            parameters: {weight: 0}
          - model: a
            layer_range: [0, 4]
            weight: 3
            parameters: {weight: "5e-1", lambda: 1, int8_mask: true}
          - model: b
            parameters: {weight: 1, t: 4, int8_mask: true}
        parameters:
        """,
    )
    notes = [note.removeprefix(f"{recipe.path}:") for note in recipe.notes]
    starts = [
        "3: cuda has no effect in a recipe: it is an option of mergekit's command",
        "5: parameters of the base have no effect",
        "8: layer_range has no effect under models",
        "9: weight has no effect here, as in mergekit, which reads it under parameters",
        "10,12: int8_mask has no effect: masks are not stored",
        "10: lambda of a model has no effect",
        "12: t has no effect with dare_ties, which does not have it",
    ]
    assert len(notes) == len(starts)
    for note, start in zip(notes, starts, strict=True):
        assert note.startswith(start)
    assert [s.parameters for s in recipe.models[1:]] == [{"weight": 0.5}, {"weight": 1}]


def test_everything_of_a_recipe_is_read(tmp_path: Path) -> None:
    recipe = read_one(
        tmp_path,
        """\
        merge_method: slerp
        base_model: {model: {path: org/a, revision: main}, lora: ./adapter}
        slices:
          - sources: &sources
              - {model: org/a@main+./adapter, layer_range: [0, 2]}
              - {model: b, layer_range: ["2", 4.0]}
            residual_weight: 0.5
            parameters: {t: [0, 1]}
          - {sources: *sources, parameters: {t: {filter: mlp, value: 1e-3}}}
        parameters: {t: 0.5}
        dtype: torch.bfloat16
        out_dtype: fp16
        chat_template: auto
        tokenizer:
          source: base
          pad_to_multiple_of: 8
          tokens:
            <x>: {source: {kind: model_token, model: b, token_id: 3}, force: true}
            <y>: {source: {kind: zero}}
            <z>: {source: b}
            <w>: {}
        """,
    )
    first, second = recipe.slices
    assert recipe.base_model == "org/a@main+./adapter"
    assert [source.layer_range for source in first.sources] == [(0, 2), (2, 4)]
    assert (first.line, second.line, first.residual_weight) == (4, 9, 0.5)
    assert first.parameters == {"t": [0, 1]}
    assert second.parameters == {"t": {"value": 0.001, "filter": "mlp"}}
    assert second.sources == first.sources
    assert (recipe.dtype, recipe.out_dtype) == ("bfloat16", "float16")
    assert (recipe.parameters, recipe.chat_template) == ({"t": 0.5}, "auto")
    assert recipe.tokenizer == Tokenizer(
        "base",
        {
            "<x>": TokenEmbedding("b", token_id=3, force=True, line=18),
            "<y>": TokenEmbedding(is_zero=True, line=19),
            "<z>": TokenEmbedding("b", line=20),
            "<w>": TokenEmbedding(line=21),
        },
        8,
        14,
    )


def test_a_base_that_is_not_listed_is_added_to_the_models(tmp_path: Path) -> None:
    recipe = read_one(tmp_path, TIES + "models:\n- model: a\n")
    assert [(s.model, s.line) for s in recipe.models] == [("a", 5), ("base", 2)]


def test_keys_that_define_anchors_for_others_are_notes(tmp_path: Path) -> None:
    text = "heavy: &heavy\n  weight: &two 2\nlist: [&three 3]\n"
    text += GOOD.replace("{weight: 1}", "*heavy").replace("2}", "*three}")
    recipe = read_one(tmp_path, text)
    assert [s.parameters["weight"] for s in recipe.models] == [2.0, 3.0]
    assert [note.split("recipe.yml:")[1] for note in recipe.notes] == [
        "1: heavy has no effect of its own: other entries use its values by an alias",
        "3: list has no effect of its own: other entries use its values by an alias",
    ]


def test_names_of_rules_are_methods(tmp_path: Path) -> None:
    text = "merge_method: trimmed_mean\nmodels: [{model: a}, {model: b}]\n"
    recipe = read_one(tmp_path, text + "parameters: {proportion: 0.1}")
    assert recipe.parameters == {"proportion": 0.1}
    messages = problems(tmp_path, text + "parameters: {propotion: 0.1}")
    assert messages == [
        "3: trimmed_mean has no parameter 'propotion'; did you mean 'proportion'?"
    ]


def test_recipes_of_the_documentation_are_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "guide" / "recipes.md"
    recipes = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(recipes) > 1
    for text in recipes:
        assert [recipe.notes for recipe in read(tmp_path, text)] == [()]


def test_several_merges_and_mixtures_are_read_in_order(tmp_path: Path) -> None:
    mixture = """\
base_model: x
gate_mode: cheap_embed
experts:
- {source_model: a, positive_prompts: [code], residual_scale: 0.1}
- {source_model: b, positive_prompts: [prose], negative_prompts: [code]}
shared_experts: [{source_model: c}]
architecture: qwen
"""
    first, second = read(tmp_path, f"{GOOD}name: x\n---\n{mixture}")
    assert isinstance(first, Recipe)
    assert isinstance(second, Mixture)
    assert (first.name, second.line) == ("x", 9)
    assert [e.positive_prompts for e in second.experts] == [("code",), ("prose",)]
    assert (second.experts[0].residual_scale, second.architecture) == (0.1, "qwen")
    assert [expert.model for expert in second.shared_experts] == ["c"]


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no recipe at .*absent\.yml"):
        read_recipes(tmp_path / "absent.yml")
