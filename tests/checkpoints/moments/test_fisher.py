"""The diagonal Fisher information, against gradients of torch.func and by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from transformers import GPT2LMHeadModel

from ensembles.checkpoints import collect_fisher
from tests.checkpoints.moments.test_gram import bert, gpt2, padded, t5


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.9), nn.Linear(4, 3))


def near(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=rtol, atol=1e-12)


def expected_by_classes(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Mean over examples of the sum over classes, by functional transforms."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    model.eval()

    def log_p(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.log_softmax(functional_call(model, values, (row,)), -1)

    jacobians = vmap(jacrev(log_p), (None, 0))(parameters, x)
    p = log_p(parameters, x).exp()
    return {
        name: torch.einsum("nc,nc...->...", p, jacobian**2) / len(x)
        for name, jacobian in jacobians.items()
    }


def test_expected_labels_sum_over_all_classes() -> None:
    model, x = classifier(), torch.randn(13, 3)
    found = collect_fisher(model, [(part, None) for part in torch.split(x, 5)])
    assert model.training
    near(found.tensors, expected_by_classes(model, x))
    assert found.settings == {"labels": "expected", "n_examples": 13}


def test_labels_of_the_data_square_the_gradient_of_each_example() -> None:
    model, x, y = classifier(), torch.randn(9, 3), torch.randint(0, 3, (9,))

    def loss(model: nn.Module, example: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(example[0]), example[1])

    found = collect_fisher(model, [(x, y)], labels="data", forward=loss)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    model.eval()

    def of_one(values: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, values, (row,))
        return nn.functional.cross_entropy(logits, label)

    gradients = vmap(grad(of_one), (None, 0, 0))(parameters, x, y)
    near(found.tensors, {n: (g**2).mean(0) for n, g in gradients.items()})


def test_named_tuples_are_divided_into_examples() -> None:
    class Batch(NamedTuple):
        x: Tensor
        y: Tensor

    model, x, y = classifier(), torch.randn(9, 3), torch.randint(0, 3, (9,))

    def loss(model: nn.Module, example: Any) -> Tensor:
        assert type(example) in (tuple, Batch)
        return nn.functional.cross_entropy(model(example[0]), example[1])

    how: Any = {"labels": "data", "forward": loss}
    expected = collect_fisher(model, [(x, y)], **how)
    found = collect_fisher(model, [Batch(x, y)], **how)
    assert found.settings["n_examples"] == 9
    near(found.tensors, expected.tensors)


def test_the_number_of_examples_is_that_of_the_input_ids() -> None:
    model, batch = bert(), padded()
    first = {"position_ids": torch.arange(5)[None], **batch}
    found = collect_fisher(model, [first])
    assert found.settings["n_examples"] == 3
    near(found.tensors, collect_fisher(model, [batch]).tensors)
    with pytest.raises(ValueError, match="must have at least one example, found none"):
        collect_fisher(classifier(), [torch.ones(0, 3)])


@pytest.mark.parametrize("labels", ["expected", "sampled"])
def test_logits_of_nan_are_refused_and_impossible_classes_are_not(labels: Any) -> None:
    class Shifted(nn.Module):
        def __init__(self, *shift: float) -> None:
            super().__init__()
            self.layer, self.shift = nn.Linear(2, 3), torch.tensor(shift)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.layer(x) + self.shift)

    x = torch.randn(4, 2)
    impossible = collect_fisher(Shifted(0, 0, -torch.inf), [x], labels=labels)
    assert (impossible.tensors["layer.bias"] > 0).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"logits must be finite.*found NaN or infi"):
        collect_fisher(Shifted(0, torch.inf, 0), [x], labels=labels)
    x[2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"logits must be finite.*found NaN or infi"):
        collect_fisher(Shifted(0, 0, 0), [x], labels=labels)


def test_sampled_labels_approach_the_expected_ones_and_depend_on_the_seed() -> None:
    model, x = classifier(), torch.randn(4, 3)
    exact = collect_fisher(model, [x], dtype="float64").tensors
    drawn = [
        collect_fisher(model, [x], labels="sampled", n_samples=n, seed=seed).tensors
        for n, seed in ((400, 0), (1, 1), (1, 1), (1, 2))
    ]
    for name, array in exact.items():
        assert np.abs(drawn[0][name] - array).max() < 0.15 * array.max()
    assert (drawn[1]["3.bias"] == drawn[2]["3.bias"]).all()
    assert (drawn[1]["3.bias"] != drawn[3]["3.bias"]).any()


def test_a_language_model_draws_a_label_at_each_position_that_is_not_padding() -> None:
    model, batch = gpt2(), padded()
    found = collect_fisher(model, [batch], labels="sampled", n_samples=2).tensors
    alone = [
        {"input_ids": ids[None, : int(mask.sum())]}
        for ids, mask in zip(*batch.values(), strict=True)
    ]
    parts = collect_fisher(model, alone, labels="sampled", n_samples=2).tensors
    near(found, parts, rtol=1e-2)
    with pytest.raises(
        ValueError, match=r"found logits of shape \(1, 5, 11\); pass la"
    ):
        collect_fisher(model, [batch])


def test_padded_labels_of_a_decoder_are_not_drawn() -> None:
    texts = padded()
    batch = {**texts, "labels": torch.tensor([[1, 2], [3, -100], [4, -100]])}
    found = collect_fisher(t5(), [batch], labels="sampled").tensors
    alone = [
        {key: value[i : i + 1] for key, value in texts.items()}
        | {"labels": batch["labels"][i : i + 1, :n]}
        for i, n in enumerate((2, 1, 1))
    ]
    parts = collect_fisher(t5(), alone, labels="sampled").tensors
    near(found, parts, rtol=1e-2)


def test_labels_in_batches_of_transformers_give_the_loss() -> None:
    model: Any = bert()
    batch = padded()
    batch["labels"] = torch.tensor([0, 1, 1])
    found = collect_fisher(model, [batch], labels="data", dtype="float64").tensors
    total = torch.zeros_like(model.classifier.weight)
    for index in range(3):
        example = {key: value[index : index + 1] for key, value in batch.items()}
        (gradient,) = torch.autograd.grad(
            model.eval()(**example).loss, [model.classifier.weight]
        )
        total += gradient**2 / 3
    np.testing.assert_allclose(found["classifier.weight"], total, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_batch_is_not_an_example() -> None:
    """Gradients of examples cancel in the gradient of a batch."""
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    x, y = torch.ones(2, 1), torch.tensor([0, 1])

    def loss(model: nn.Module, example: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(example[0]), example[1])

    found = collect_fisher(model, [(x, y)], labels="data", forward=loss)
    assert found.tensors["weight"].tolist() == [[0.25], [0.25]]  # of the batch: 0


def test_tied_and_frozen_parameters() -> None:
    model: GPT2LMHeadModel = gpt2()
    model.transformer.wpe.requires_grad_(False)
    found = collect_fisher(model, [padded()], labels="sampled")
    assert found.aliases == {"lm_head.weight": "transformer.wte.weight"}
    assert "transformer.wte.weight" in found.tensors
    assert "transformer.wpe.weight" not in found.tensors
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="must require gradients, found none"):
        collect_fisher(model, [padded()], labels="sampled")


def test_parameters_without_a_gradient_have_no_information() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.used(x))

    found = collect_fisher(Unused(), [torch.ones(1, 2)]).tensors
    assert not found["unused.weight"].any()
    assert found["used.weight"].all()


def test_outputs_without_class_probabilities_are_refused() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"two or more classes, found shape \(1, 1\)"):
        collect_fisher(nn.Linear(2, 1), [x])
    with pytest.raises(
        ValueError, match="needs a scalar loss, found a tensor of shape"
    ):
        collect_fisher(nn.Linear(2, 3), [x], labels="data")
    with pytest.raises(
        ValueError, match="needs a scalar loss, found no loss; add label"
    ):
        collect_fisher(bert(), [padded()], labels="data")
    model = bert()
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="problem_type 'multi_label_classification'"):
        collect_fisher(model, [padded()])
    with pytest.raises(ValueError, match="found 0 for all 1 parameters"):
        collect_fisher(nn.Linear(2, 2, bias=False), [torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="labels must be one of 'expected', 'sampled'"):
        collect_fisher(nn.Linear(2, 2), [x], labels="empirical")  # type: ignore[arg-type]
