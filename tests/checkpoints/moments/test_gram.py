"""Gram matrices of the inputs of linear layers, against sums over single rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ensembles.checkpoints import collect_gram
from ensembles.checkpoints.compatibility.moments import KEY
from tests.checkpoints.models import TiedGPT


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 12}
    config = BertConfig(
        vocab_size=11, num_hidden_layers=2, num_attention_heads=2, **sizes
    )
    return BertForSequenceClassification(config)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2))


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2}
    sizes |= {"num_layers": 1, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=11, **sizes))


def padded() -> dict[str, Tensor]:
    """Three texts of 5, 3 and 1 tokens."""
    torch.manual_seed(1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    return {"input_ids": torch.randint(1, 11, (3, 5)), "attention_mask": mask.long()}


def inputs_of(model: nn.Module, layer: nn.Module, batches: list[Any]) -> list[Tensor]:
    """Inputs of a layer, caught while the model runs."""
    caught: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        for batch in batches:
            model.eval()(**batch) if isinstance(batch, dict) else model.eval()(batch)
    hook.remove()
    return caught


def test_sums_over_batches_are_those_over_all_rows_in_float64() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9), nn.Linear(4, 2))
    data = torch.randn(20, 7, 3)
    found = collect_gram(model, torch.split(data, 6), dtype="float64")
    rows = data.reshape(-1, 3).double()
    hidden = model[0](data).reshape(-1, 4).double()
    for name, x in (("0.weight", rows), ("2.weight", hidden)):
        expected = (x.T @ x).detach().numpy()
        np.testing.assert_allclose(found.tensors[name], expected, rtol=1e-13)
    assert found.settings == {"reduction": "sum", "n_batches": 4, "n_rows": 140}
    mean = collect_gram(model, torch.split(data, 6), reduction="mean")
    expected = found.tensors["0.weight"] / 140
    np.testing.assert_allclose(mean.tensors["0.weight"], expected, rtol=1e-7)


def test_padding_does_not_count() -> None:
    model, batch = bert(), padded()
    singles = [
        {"input_ids": ids[None, : int(mask.sum())]}
        for ids, mask in zip(*batch.values(), strict=True)
    ]
    whole = collect_gram(model, [batch], dtype="float64").tensors
    parts = collect_gram(model, singles, dtype="float64").tensors
    assert len(whole) == 2 * 6 + 2  # and the pooler and the classifier
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-4, atol=1e-5)
    unmasked = collect_gram(model, [{"input_ids": batch["input_ids"]}]).settings
    assert unmasked["n_rows"] == 15


def test_flattened_inputs_are_masked_too() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.as_tensor(self.layer(x.flatten(0, 1)))

    x, mask = torch.ones(2, 3, 2), torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = collect_gram(Flat(), [{"x": x, "attention_mask": mask}])
    assert found.tensors["layer.weight"].tolist() == [[3, 3], [3, 3]]


def test_transposed_weights_of_gpt2_have_a_third_axis() -> None:
    model, batch = gpt2(), padded()
    found = collect_gram(model, [batch], dtype="float64")
    layer = model.get_submodule("transformer.h.0.mlp.c_proj")
    (inputs,) = inputs_of(model, layer, [batch])
    rows = inputs[batch["attention_mask"].bool()].double()
    name = "transformer.h.0.mlp.c_proj.weight"
    assert found.tensors[name].shape == (32, 32, 1)
    np.testing.assert_allclose(found.tensors[name][..., 0], rows.T @ rows, rtol=1e-12)
    assert found.notes == (
        "transformer.wte.weight has no Gram matrix: it is tied to another layer",
    )
    assert not any("wte" in name or "lm_head" in name for name in found.tensors)


def test_a_layer_that_runs_twice_adds_both_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2, bias=False)
            self.second = nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            nn.init.constant_(self.first.weight, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.second(self.first(x)))

    found = collect_gram(Twice(), [torch.tensor([[1.0, 0.0]])])
    assert [*found.tensors] == ["first.weight"]
    assert found.tensors["first.weight"].tolist() == [[2, 1], [1, 1]]
    assert found.aliases == {"second.weight": "first.weight"}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inputs_that_change_in_place_are_not_those_of_an_earlier_layer(
    mode: Any,
) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            x += self.first(x)
            return torch.as_tensor(self.second(x))

    model, x = Residual(), torch.randn(5, 2)
    with torch.no_grad():
        inputs = (x + model.first(x)).double()

    def forward(model: nn.Module, batch: Tensor) -> Any:
        with mode():
            return model(batch)

    found = collect_gram(model, [x], forward=forward).tensors["second.weight"]
    np.testing.assert_allclose(found, inputs.T @ inputs, rtol=1e-5)


def test_weights_of_other_layers_are_named() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.conv = nn.Embedding(9, 2), nn.Conv1d(2, 2, 1)
            self.experts = nn.Parameter(torch.ones(2, 2, 2))
            self.head = nn.Linear(2, 2)

        def forward(self, words: Tensor) -> Tensor:
            hidden = self.conv(self.embed(words).mT).mT
            return torch.as_tensor(self.head(hidden @ self.experts[0]))

    (note,) = collect_gram(Mixture(), [torch.tensor([[1, 2]])]).notes
    assert note == (
        "experts, conv.weight have no Gram matrix: they are not weights of nn.Linear "
        "or Conv1D"
    )


def test_weights_that_no_call_of_a_layer_uses_are_named() -> None:
    found = collect_gram(TiedGPT(), [torch.tensor([[1, 2, 3]])])
    assert [*found.tensors] == ["block.linear1.weight", "block.linear2.weight"]
    tied, fused, unused = found.notes
    assert tied.startswith("embedding.weight has no Gram matrix: it is tied")
    assert fused.startswith("block.self_attn.in_proj_weight has no Gram matrix: it is")
    assert unused.startswith("block.self_attn.out_proj.weight has no Gram matrix: no")


def test_modes_of_modules_are_restored_also_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    model[1].eval()
    collect_gram(model, [torch.ones(1, 2)])
    assert [m.training for m in model.modules()] == [True, True, False]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        collect_gram(model, [torch.ones(1, 3)])
    assert [m.training for m in model.modules()] == [True, True, False]
    assert not model[0]._forward_pre_hooks


def test_an_encoder_decoder_masks_encoder_and_decoder() -> None:
    model = t5()
    labels = torch.tensor([[1, 2], [3, -100], [4, -100]])
    batch = {**padded(), "labels": labels}
    found = collect_gram(model, [batch], dtype="float64").tensors
    query = model.get_submodule("decoder.block.0.layer.0.SelfAttention.q")
    (decoder,) = inputs_of(model, query, [batch])
    rows = decoder[labels != -100].double()
    name = "decoder.block.0.layer.0.SelfAttention.q.weight"
    np.testing.assert_allclose(found[name], rows.T @ rows, rtol=1e-12)
    key = model.get_submodule("decoder.block.0.layer.1.EncDecAttention.k")
    (encoder,) = inputs_of(model, key, [batch])
    rows = encoder[batch["attention_mask"].bool()].double()
    name = "decoder.block.0.layer.1.EncDecAttention.k.weight"
    np.testing.assert_allclose(found[name], rows.T @ rows, rtol=1e-12)
    same = {**batch, "labels": torch.full((3, 5), 2)}
    with pytest.raises(ValueError, match="different numbers of positions, or the same"):
        collect_gram(model, [same])


def test_files_name_their_contents_and_are_not_replaced(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    path = tmp_path / "gram.safetensors"
    collect_gram(model, [torch.ones(3, 2)]).save(path)
    with safe_open(path, "np") as file:
        assert file.get_tensor("weight").tolist() == [[3, 3], [3, 3]]
        description = json.loads(file.metadata()[KEY])
    assert description["kind"] == "gram"
    assert description["samples"].keys() == {"weight"}
    with pytest.raises(FileExistsError):
        collect_gram(model, [torch.ones(3, 2)]).save(path)


def test_progress_counts_batches() -> None:
    counts: list[int] = []
    collect_gram(nn.Linear(2, 1), [torch.ones(3, 2)] * 4, progress=counts.append)
    assert counts == [1] * 4


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (nn.ReLU(), [torch.ones(1, 2)], "must run a linear layer .* ReLU"),
        (nn.Linear(2, 1), [], "batches must have at least one batch, found none"),
        (
            nn.Conv1d(2, 1, 1),
            [torch.ones(1, 2, 2)],
            "must run a linear layer .* Conv1d",
        ),
        (nn.Linear(2, 1), [torch.ones(0, 2)], "at least one example that is not pad"),
        (nn.Linear(2, 1), [torch.full((1, 2), torch.inf)], "'weight' must be finite"),
        (nn.Linear(2, 1), [torch.full((1, 2), 1e30)], "must be finite in float32"),
    ],
)
def test_data_without_moments_are_refused(
    model: nn.Module, batches: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        collect_gram(model, batches)
