"""Tokenizers of recipes; expected rows are computed by the text of each token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from ensembles.checkpoints import plan_recipe, read_recipes, write

WIDTH = 4
TOKENS = {
    "A": ("<s> </s> a b c ab", ["<x>"]),
    "B": ("</s> <s> a c d cd", ["<x>", "<end>"]),
    "C": ("<s> </s> d a c cd", []),
}
N_PADDING = {"A": 3, "B": 0, "C": 0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, (name, (words, added)) in enumerate(TOKENS.items()):
        vocab = {token: index for index, token in enumerate(words.split())}
        merges = [(t[0], t[1]) for t in vocab if len(t) == 2]
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_tokens([AddedToken(token, special=True) for token in added])
        n_rows = tokenizer.get_vocab_size() + N_PADDING[name]
        write_model(tmp_path / name, n_rows, seed, eos=tokenizer.token_to_id("</s>"))
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
        template = {"chat_template": "{{ 'of ' + '" + name + "' }}"}
        (tmp_path / name / "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "</s>", **template})
        )
    return tmp_path


def write_model(folder: Path, n_rows: int, seed: int, *, eos: int | None) -> None:
    rng = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (n_rows, WIDTH),
        "model.layers.0.mlp.weight": (WIDTH, WIDTH),
        "lm_head.weight": (n_rows, WIDTH),
        "lm_head.bias": (n_rows,),
    }
    folder.mkdir()
    save_file(
        {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()},
        folder / "model.safetensors",
    )
    config = {"model_type": "llama", "vocab_size": n_rows, "eos_token_id": eos}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))


def merge(text: str, names: str = "A B") -> tuple[dict[str, np.ndarray], Any, Any]:
    """Tensors, tokenizer and plan of the mean of models with weights 1, 2, 3."""
    sources = "".join(
        f"  - {{model: {name}, parameters: {{weight: {weight}}}}}\n"
        for weight, name in enumerate(names.split(), 1)
    )
    Path("recipe.yml").write_text(f"merge_method: linear\nmodels:\n{sources}{text}")
    (recipe,) = read_recipes("recipe.yml")
    plan = plan_recipe(recipe, "out", force=True)
    write(plan)
    tokenizer = Tokenizer.from_file("out/tokenizer.json")
    return load_file("out/model.safetensors"), tokenizer, plan


def rows_of(name: str, tensor: str) -> dict[str, np.ndarray]:
    """Rows of a model by token, in float64."""
    ids = Tokenizer.from_file(f"{name}/tokenizer.json").get_vocab()
    stored = load_file(f"{name}/model.safetensors")[tensor].astype(float)
    return {token: stored[index] for token, index in ids.items()}


def check(
    tensors: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    names: str = "A B",
    fixed: dict[str, Any] | None = None,
    base: str = "A",
) -> None:
    """Compare with means of rows; models that lack a token have the default row."""
    members = names.split()
    for tensor in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"):
        by_model = {name: rows_of(name, tensor) for name in members}
        for token, index in tokenizer.get_vocab().items():
            have = {n: rows[token] for n, rows in by_model.items() if token in rows}
            default = np.mean([*have.values()], 0) if have else 0.0
            default = have.get(base, default)
            if fixed is not None and token in fixed:
                have, default = {}, fixed[token](by_model)
            rows = [have.get(name, default) for name in members]
            weights = np.arange(1, len(members) + 1)
            expected = sum(w * row for w, row in zip(weights, rows, strict=True))
            np.testing.assert_allclose(
                tensors[tensor][index],
                expected / weights.sum(),
                1e-6,
                1e-7,
                err_msg=token,
            )


def test_a_union_has_the_tokens_of_all_models(folder: Path) -> None:
    (folder / "A/merges.txt").write_text("")
    tensors, tokenizer, plan = merge("base_model: A\ntokenizer_source: union\n")
    vocab = tokenizer.get_vocab()
    own = Tokenizer.from_file("A/tokenizer.json").get_vocab()
    assert {token: vocab[token] for token in own} == own
    assert vocab.keys() - own.keys() == {"d", "cd", "<end>"}
    assert tensors["lm_head.weight"].shape == (len(vocab), WIDTH)
    check(tensors, tokenizer)
    config = json.loads((folder / "out/config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (10, 1)
    notes = "\n".join(plan.notes)
    assert "that of A with 3 more tokens of the other models, such as 'd'" in notes
    assert "merges.txt of A are left out" in notes
    assert not (folder / "out/merges.txt").exists()
    assert "A have 3 rows beyond its 7 tokens, which are left out" in notes
    assert "rows of their embeddings may mean different words" not in notes


def test_without_a_base_absent_tokens_have_the_mean_of_the_others(folder: Path) -> None:
    tensors, tokenizer, _ = merge("tokenizer_source: union\n", "A B C")
    check(tensors, tokenizer, "A B C", base="none")


@pytest.mark.parametrize("source", ["base", "B"])
def test_another_tokenizer_gives_its_rows_and_special_tokens(
    folder: Path, source: str
) -> None:
    base = "B" if source == "base" else "A"
    tensors, tokenizer, _ = merge(f"base_model: {base}\ntokenizer_source: {source}\n")
    assert tokenizer.get_vocab() == (
        Tokenizer.from_file("B/tokenizer.json").get_vocab()
    )
    check(tensors, tokenizer, base=base)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / "out" / name).read_text())["eos_token_id"] == 0


def test_single_tokens_have_the_embeddings_that_a_recipe_names(folder: Path) -> None:
    tensors, tokenizer, plan = merge(
        """\
base_model: A
tokenizer:
  source: union
  pad_to_multiple_of: 8
  tokens:
    a: {source: B, force: true}
    "<end>": {source: {kind: model_token, model: A, token: "</s>"}, force: true}
    "<new>": {source: {kind: zero}}
    "<id>": {source: {kind: model_token, model: B, token_id: 3}}
"""
    )
    fixed = {
        "a": lambda rows: rows["B"]["a"],
        "<end>": lambda rows: rows["A"]["</s>"],
        "<new>": lambda rows: rows["A"]["a"] * 0,
        "<id>": lambda rows: rows["B"]["c"],
    }
    check(tensors, tokenizer, fixed=fixed)
    assert tokenizer.get_vocab_size() == 12
    for tensor in (tensors["lm_head.weight"], tensors["lm_head.bias"]):
        assert len(tensor) == 16
        np.testing.assert_allclose(
            tensor[12:], np.stack([tensor[:12].mean(0)] * 4), 1e-5, 1e-7
        )
    assert any("4 rows after the 12 tokens are padding" in note for note in plan.notes)


def test_the_chat_template_is_that_of_the_recipe(folder: Path) -> None:
    merge("chat_template: chatml\n", "A")
    config = json.loads((folder / "out/tokenizer_config.json").read_text())
    assert "<|im_start|>" in config["chat_template"]
    assert config["eos_token"] == "</s>"


def test_different_hidden_sizes_are_refused(folder: Path) -> None:
    path = folder / "B/model.safetensors"
    tensors = load_file(path)
    wide = {n: np.repeat(t, 1 if t.ndim == 1 else 2, -1) for n, t in tensors.items()}
    save_file(wide, path)
    with pytest.raises(
        ValueError, match=r"same hidden size at tensor 'lm_head.weight'"
    ):
        merge("tokenizer_source: union\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokenizer_source: unoin\n", "found 'unoin'; did you mean 'union'?"),
        ("tokenizer_source: D\n", "must be 'union', 'base', or the path .* found 'D'"),
        (
            "tokenizer: {tokens: {b: {source: B}}}\n",
            "token 'b' must be one of B, which has no token 'b' among its 8 rows",
        ),
        (
            "tokenizer: {tokens: {b: {source: "
            "{kind: model_token, model: B, token_id: 8}}}}\n",
            "which has no token id 8 among its 8 rows",
        ),
        ("chat_template: chat\n", "chat_template must be 'auto', one of"),
    ],
)
def test_unknown_names_are_one_clear_error(
    folder: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=r"^recipe.yml:[1-9]: .*" + message):
        merge(text)


def test_a_model_without_tokenizer_has_that_of_the_base(folder: Path) -> None:
    (folder / "B/tokenizer.json").unlink()
    tensors, _, plan = merge("base_model: A\ntokenizer_source: union\n")
    assert any(
        "this model has no tokenizer: B; the tokens" in note for note in plan.notes
    )
    assert len(tensors["lm_head.weight"]) == 7
    (folder / "A/tokenizer.json").unlink()
    with pytest.raises(ValueError, match="A must have a tokenizer"):
        merge("base_model: A\ntokenizer_source: union\n")


def test_a_tied_model_has_the_output_rows_of_the_others_for_their_tokens(
    folder: Path,
) -> None:
    path = folder / "B/model.safetensors"
    stored = load_file(path)
    head = stored.pop("lm_head.weight")
    save_file({**stored, "lm_head.bias": stored["lm_head.bias"]}, path)
    config = json.loads((folder / "B/config.json").read_text())
    config["tie_word_embeddings"] = True
    (folder / "B/config.json").write_text(json.dumps(config))
    tensors, tokenizer, _ = merge("base_model: A\ntokenizer_source: union\n")
    save_file({**stored, "lm_head.weight": stored["model.embed_tokens.weight"]}, path)
    assert head.shape == stored["model.embed_tokens.weight"].shape
    check(tensors, tokenizer)


@pytest.mark.parametrize("base", ["A", "B"])
def test_a_tied_pickle_has_output_rows_of_its_own_among_the_others(
    folder: Path, base: str
) -> None:
    path = folder / "B/model.safetensors"
    stored = {n: torch.from_numpy(t) for n, t in load_file(path).items()}
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    torch.save(stored, folder / "B/pytorch_model.bin")
    path.unlink()
    tensors, tokenizer, _ = merge(f"base_model: {base}\ntokenizer_source: union\n")
    save_file({n: t.numpy() for n, t in stored.items()}, path)
    check(tensors, tokenizer, base=base)


def test_tokens_without_a_row_are_not_tokens_of_the_model(folder: Path) -> None:
    path = folder / "A/model.safetensors"
    tensors = load_file(path)
    save_file({n: t[:6] if len(t) != WIDTH else t for n, t in tensors.items()}, path)
    config = json.loads((folder / "A/config.json").read_text())
    (folder / "A/config.json").write_text(json.dumps({**config, "vocab_size": 6}))
    tensors, tokenizer, _ = merge("base_model: A\ntokenizer_source: base\n")
    assert "<x>" not in tokenizer.get_vocab()
    assert len(tensors["lm_head.weight"]) == tokenizer.get_vocab_size() == 6
    tensors, tokenizer, _ = merge("base_model: A\ntokenizer_source: union\n")
    rows = rows_of("B", "lm_head.weight")
    row = tensors["lm_head.weight"][tokenizer.token_to_id("<x>")]
    np.testing.assert_allclose(row, rows["<x>"], 1e-6)
