"""RegMean++, against the same algorithm on the outputs of each layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ensembles._typing import Float64
from ensembles.checkpoints import average, collect_gram, regmean_plus_plus
from tests.checkpoints.moments.test_gram import bert, padded


class Block(nn.Module):
    """Two linear layers and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.up(self.norm(x)))
        return x + torch.as_tensor(self.down(hidden))


class Network(nn.Module):
    """Blocks between an embedding and a head, which are defined in another order."""

    def __init__(self, seed: int, n_classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Linear(4, n_classes)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.embedding = nn.Embedding(9, 4)
        self.double()

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.embedding(words)
        for block in self.blocks:
            hidden = block(hidden)
        return torch.as_tensor(self.head(hidden.mean(1)))


def data(n_members: int = 2) -> list[list[Tensor]]:
    torch.manual_seed(5)
    return [list(torch.randint(0, 9, (3, 7, 5))) for _ in range(n_members)]


def solved(weights: list[Any], grams: list[Float64], alpha: float) -> Float64:
    scaled = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in grams]
    products = sum(w.detach().numpy() @ g for w, g in zip(weights, scaled, strict=True))
    return np.asarray(products @ np.linalg.inv(sum(scaled)))


def gram_of(x: Tensor) -> Float64:
    rows = x.detach().reshape(-1, x.shape[-1]).numpy()
    return np.asarray(rows.T @ rows)


def by_layers(
    models: list[Network], words: list[Tensor], alpha: float
) -> dict[str, Any]:
    """The algorithm of the paper: outputs of merged blocks are kept for the next."""
    states = [model.state_dict() for model in models]
    merged = {n: sum(s[n] for s in states) / len(states) for n in states[0]}
    result = copy.deepcopy(models[0])
    result.load_state_dict(merged)
    inputs = [result.embedding(w) for w in words]
    for index in range(2):
        blocks: list[Any] = [model.blocks[index] for model in models]
        hidden = [b.norm(x) for b, x in zip(blocks, inputs, strict=True)]
        middle = [torch.tanh(b.up(h)) for b, h in zip(blocks, hidden, strict=True)]
        for name, features in (("up", hidden), ("down", middle)):
            found = solved(
                [getattr(b, name).weight for b in blocks],
                [gram_of(x) for x in features],
                alpha,
            )
            result.get_submodule(
                f"blocks.{index}.{name}"
            ).weight.data = torch.from_numpy(found)
        inputs = [result.blocks[index](x) for x in inputs]
    grams = [gram_of(x.mean(1)) for x in inputs]
    head = solved([model.head.weight for model in models], grams, alpha)
    result.head.weight.data = torch.from_numpy(head)
    return result.state_dict()


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_layers_get_inputs_from_the_merged_layers_below(alpha: float) -> None:
    models, batches = [Network(0), Network(1)], data()
    found = regmean_plus_plus(models, batches, alpha=alpha)
    whole = [torch.cat(own) for own in batches]
    expected = by_layers(models, whole, alpha)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-12)


def test_the_first_layer_is_that_of_the_rule_and_the_next_is_not() -> None:
    models = [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)) for _ in range(2)]
    batches = [[torch.randn(20, 3)], [torch.randn(30, 3) * 2]]
    layerwise = regmean_plus_plus(models, batches, weights=[1, 3])
    moments = [
        collect_gram(model, own, dtype="float64")
        for model, own in zip(models, batches, strict=True)
    ]
    states = [model.state_dict() for model in models]
    plain = average(states, rule="regmean", weights=[1, 3], moments=moments)
    torch.testing.assert_close(layerwise["0.weight"], plain["0.weight"])
    assert not torch.allclose(layerwise["1.weight"], plain["1.weight"])


def test_models_are_not_changed_and_heads_may_be_left_out() -> None:
    models = [Network(0, 3).train(), Network(1, 2).train()]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    with pytest.raises(
        ValueError, match=r"'head.weight', models\[0\] has \(3, 4\) and mod"
    ):
        regmean_plus_plus(models, data())
    found = regmean_plus_plus(models, data(), exclude=["head.*"])
    assert "head.weight" not in found
    for model, state in zip(models, before, strict=True):
        assert model.training
        assert not any(m._forward_pre_hooks for m in model.modules())
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name])
    models[0].load_state_dict(found, strict=False)


def test_a_hugging_face_model_is_merged_with_padding() -> None:
    models: list[Any] = [bert(), bert()]
    for parameter in models[1].parameters():
        parameter.data += torch.randn_like(parameter) * 0.005
    batches = [[padded()], [padded()]]
    counts: list[int] = []
    found = regmean_plus_plus(models, batches, progress=counts.append)
    assert len(counts) == 4 * 2  # two blocks, the pooler and the classifier
    assert found.keys() == models[0].state_dict().keys()
    models[0].load_state_dict(found)
    hidden = "bert.encoder.layer.1.output.dense.weight"
    states = [bert().state_dict(), models[1].state_dict()]
    mean = average(states)
    assert not torch.allclose(found[hidden], mean[hidden])
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(found[word], mean[word])


def test_a_tied_weight_stays_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.body = nn.Embedding(5, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words: Tensor) -> Tensor:
            return torch.as_tensor(self.head(self.body(self.embedding(words))))

    words = torch.tensor([[1, 2], [3, 4]])
    found = regmean_plus_plus([Tied(), Tied()], [[words], [words]])
    assert torch.equal(found["head.weight"], found["embedding.weight"])


def test_equal_models_are_a_fixed_point() -> None:
    models = [Network(0), Network(0)]
    found = regmean_plus_plus(models, data())
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(found[name], tensor)


def test_data_that_cannot_be_used_are_refused() -> None:
    models = [Network(0), Network(1)]
    with pytest.raises(
        TypeError, match=r"batches\[1\] is read several times, found an it"
    ):
        regmean_plus_plus(models, [data()[0], iter(data()[1])])
    with pytest.raises(ValueError, match="the data of each of 2 models, found 1"):
        regmean_plus_plus(models, data(1))
    with pytest.raises(ValueError, match="batches must have at least one batch"):
        regmean_plus_plus(models, [[], []])
    with pytest.raises(ValueError, match="must have a linear layer"):
        regmean_plus_plus([nn.Embedding(2, 2)], [data()[0]])
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], found 2"):
        regmean_plus_plus(models, data(), alpha=2)
    with pytest.raises(
        ValueError, match="reduction must be 'sum' or 'mean', found 'x'"
    ):
        regmean_plus_plus(models, data(), reduction="x")  # type: ignore[arg-type]
