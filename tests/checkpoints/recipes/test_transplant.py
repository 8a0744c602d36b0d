"""A model with the tokenizer of another one."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from ensembles.checkpoints import convert, transplant_tokenizer
from ensembles.checkpoints.vocabulary.pursuit import matching_pursuit

SHARED = "<s> </s> a b c d e f g h"


def write_model(folder: Path, words: str, width: int, seed: int, *, tied: bool) -> None:
    vocab = {token: index for index, token in enumerate(words.split())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    rng = np.random.default_rng(seed)
    names = ["model.embed_tokens.weight"] + ["lm_head.weight"] * (not tied)
    tensors = {n: rng.standard_normal((len(vocab), width)) for n in names}
    if not tied:
        tensors["lm_head.bias"] = rng.standard_normal(len(vocab))
    folder.mkdir()
    save_file(
        {n: t.astype(np.float32) for n, t in tensors.items()},
        folder / "model.safetensors",
    )
    eos = vocab["</s>"]
    config = {"vocab_size": len(vocab), "eos_token_id": eos, "hidden_size": width}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", f"{SHARED} x y", 6, 0, tied=False)
    write_model(tmp_path / "donor", f"u v w {SHARED}", 5, 1, tied=True)
    return tmp_path


def test_new_tokens_are_the_sums_that_approximate_them_in_the_donor(
    folder: Path,
) -> None:
    view = transplant_tokenizer(folder / "model", folder / "donor", k=3)
    report = convert(view, folder / "out")
    own, result = (
        load_file(folder / n / "model.safetensors") for n in ("model", "out")
    )
    table = load_file(folder / "donor/model.safetensors")["model.embed_tokens.weight"]
    found = matching_pursuit(table[:3], table[3:], 3)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        np.testing.assert_array_equal(result[name][3:], own[name][:10])
        for row in range(3):
            sums = found.coefficients[row] @ own[name][:10][found.points[row]]
            np.testing.assert_allclose(result[name][row], sums, 1e-6)
    np.testing.assert_array_equal(result["lm_head.bias"][:3], np.zeros(3))
    config = json.loads((folder / "out/config.json").read_text())
    assert config == {"vocab_size": 13, "eos_token_id": 4, "hidden_size": 6}
    tokenizers = [(folder / n / "tokenizer.json").read_text() for n in ("out", "donor")]
    assert tokenizers[0] == tokenizers[1]
    notes = "\n".join(report.plan.notes)
    assert "10 of the 13 tokens of" in notes
    assert "3 tokens are new, such as 'u', 'v', 'w': each is estimated from 3" in notes


def test_the_note_counts_the_tokens_that_a_sum_has(folder: Path) -> None:
    notes = transplant_tokenizer(folder / "model", folder / "donor").notes
    assert any("is estimated from 5 shared tokens" in note for note in notes)


@pytest.mark.parametrize("method", ["mean", "zero"])
def test_new_tokens_have_the_mean_or_zero(folder: Path, method: str) -> None:
    view = transplant_tokenizer(folder / "model", folder / "donor", method=method)  # type: ignore[arg-type]
    convert(view, folder / "out")
    own, result = (
        load_file(folder / n / "model.safetensors") for n in ("model", "out")
    )
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        expected = own[name].astype(float).mean(0) * (method == "mean")
        np.testing.assert_allclose(result[name][:3], [expected] * 3, 1e-6)


def test_a_tokenizer_that_is_transplanted_to_its_own_model_changes_nothing(
    folder: Path,
) -> None:
    convert(transplant_tokenizer(folder / "model", folder / "model"), folder / "out")
    own, result = (
        load_file(folder / n / "model.safetensors") for n in ("model", "out")
    )
    for name, tensor in own.items():
        np.testing.assert_array_equal(result[name], tensor)


def test_bad_input_is_an_error_before_anything_is_computed(folder: Path) -> None:
    model, donor = folder / "model", folder / "donor"
    with pytest.raises(ValueError, match="one of omp, mean, zero, found 'median'"):
        transplant_tokenizer(model, donor, method="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"k .* must be at least 1, found 0"):
        transplant_tokenizer(model, donor, k=0)
    with pytest.raises(ValueError, match="the donor must be a directory with a tok"):
        transplant_tokenizer(model, donor / "model.safetensors")
    write_model(folder / "other", "p q </s>", 5, 1, tied=True)
    (folder / "other/tokenizer.json").write_text(
        (folder / "other/tokenizer.json").read_text().replace("</s>", "r")
    )
    (folder / "other/tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"no token in common.*method='mean'"):
        transplant_tokenizer(model, folder / "other")
