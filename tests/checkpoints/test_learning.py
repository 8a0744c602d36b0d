"""Learned soups: the gradient beside finite differences, and what it brings."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ensembles.checkpoints import ModelSoup
from ensembles.checkpoints.layers import layers_of
from ensembles.checkpoints.learning import Learned
from ensembles.checkpoints.merging import Combining, Merged, merge
from ensembles.checkpoints.scored import SoupScore
from ensembles.weighting import Floats

N_MEMBERS = 3
STEP = 1e-6


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*layers).to(dtype)


def near(base: nn.Module, seed: int, scale: float = 0.1) -> nn.Module:
    """A network beside another, as a fine-tune is."""
    generator = torch.Generator().manual_seed(seed)
    found = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in found.parameters():
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
            parameter.add_(scale * noise)
    return found


def merged(dtype: torch.dtype = torch.float64) -> Merged:
    base = network(dtype)
    members = [near(base, seed) for seed in range(N_MEMBERS)]
    names = [str(place) for place in range(N_MEMBERS)]
    return merge(base, members, Combining("mean", {}, True, "error"), names=names)


X = np.random.default_rng(0).normal(size=(20, 4))
Y = np.random.default_rng(1).integers(3, size=20)


def learned(parts: Any = None) -> Learned:
    found = merged()
    score = SoupScore(found, lambda *_: 0.0, parts or [(X, Y, {})])
    return Learned(found, score)


def column(n_groups: int) -> Floats:
    drawn = np.random.default_rng(2).uniform(0.1, 1, (N_MEMBERS, n_groups))
    return np.asarray(drawn / drawn.sum(0))


@pytest.mark.parametrize("by", ["model", "layer"])
def test_the_gradient_is_that_of_finite_differences(by: str) -> None:
    one = learned()
    weights = column(len(one.merged.layers) if by == "layer" else 1)
    found = one.slopes(weights, X, Y, None, 1.5)
    # Along the simplex: what one member gains another loses.
    for group in range(weights.shape[1]):
        for member in range(1, N_MEMBERS):
            moved = weights.copy()
            moved[member, group] += STEP
            moved[0, group] -= STEP
            above = one.slopes(moved, X, Y, None, 1.5).loss
            moved[:, group] = 2 * weights[:, group] - moved[:, group]
            below = one.slopes(moved, X, Y, None, 1.5).loss
            slope = found.by_weights[member, group] - found.by_weights[0, group]
            assert (above - below) / (2 * STEP) == pytest.approx(slope, rel=1e-5)


def test_the_slope_by_the_sharpness_is_that_of_finite_differences() -> None:
    one, weights = learned(), column(1)
    found = one.slopes(weights, X, Y, None, 1.5)
    above = one.slopes(weights, X, Y, None, 1.5 * np.exp(STEP)).loss
    below = one.slopes(weights, X, Y, None, 1.5 * np.exp(-STEP)).loss
    assert (above - below) / (2 * STEP) == pytest.approx(found.by_sharpness, rel=1e-5)


def test_the_gradient_through_all_members_at_once_is_the_same() -> None:
    """Held against the published way: all members stacked, and autograd through it."""
    one, weights = learned(), column(1)
    found = one.slopes(weights, X, Y, None, 1.0)
    base = network()
    members = [near(base, seed) for seed in range(N_MEMBERS)]
    alpha = torch.tensor(weights[:, 0], requires_grad=True)
    stacked = {
        name: torch.stack([dict(member.named_parameters())[name] for member in members])
        for name, _ in base.named_parameters()
    }
    combined = {name: torch.tensordot(alpha, s, 1) for name, s in stacked.items()}
    base.eval()
    answer = torch.func.functional_call(base, combined, (torch.as_tensor(X),))
    loss = nn.functional.cross_entropy(answer, torch.as_tensor(Y))
    loss.backward()  # type: ignore[no-untyped-call]
    assert alpha.grad is not None
    expected = alpha.grad.numpy()
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    np.testing.assert_allclose(
        found.by_weights[:, 0] - found.by_weights[:, 0].mean(),
        expected - expected.mean(),
        rtol=1e-9,
    )


def accuracy(model: nn.Module, X: Any, y: Any) -> float:
    with torch.no_grad():
        return float((model(torch.as_tensor(X)).argmax(1).numpy() == y).mean())


def minus_loss(model: nn.Module, X: Any, y: Any) -> float:
    with torch.no_grad():
        answer = model(torch.as_tensor(X))
        return -float(nn.functional.cross_entropy(answer, torch.as_tensor(y)))


@pytest.mark.parametrize("params", [{}, {"by": "layer"}, {"temperature": True}])
def test_a_learned_soup_leans_to_the_members_that_made_the_labels(
    params: dict[str, Any],
) -> None:
    base = network()
    members = [near(base, seed, scale=0.15) for seed in range(N_MEMBERS)]
    with torch.no_grad():
        answers = [m.eval()(torch.as_tensor(X)) for m in members[1:]]
        labels = (answers[0] + answers[1]).argmax(1).numpy()
    params = {"n_passes": 40, "learning_rate": 0.3, **params}
    soup = ModelSoup(base, members, weights="convex", scoring=minus_loss, params=params)
    soup.fit(X, labels)
    assert soup.soup_score_ > soup.scores_.max()
    weights = soup.weights_.reshape(N_MEMBERS, -1)
    np.testing.assert_allclose(weights.sum(0), 1)
    assert weights[0].mean() < 1 / N_MEMBERS


def test_a_regression_learns_by_squared_error() -> None:
    torch.manual_seed(0)
    base = nn.Linear(4, 1).double()
    members = [near(base, seed) for seed in range(2)]
    with torch.no_grad():
        wanted = sum(member(torch.as_tensor(X)) for member in members)[:, 0] / 2

    def minus_error(model: nn.Module, X: Any, y: Any) -> float:
        return -float(
            ((model(torch.as_tensor(X))[:, 0] - torch.as_tensor(y)) ** 2).mean()
        )

    soup = ModelSoup(base, members, weights="convex", scoring=minus_error)
    soup.fit(X, wanted.numpy())
    np.testing.assert_allclose(soup.weights_, 0.5, atol=0.05)
    assert soup.soup_score_ > soup.scores_.max()


@pytest.mark.filterwarnings("ignore:selection .* helped nothing")
def test_a_loss_of_ones_own_gets_the_model_and_the_batch() -> None:
    sizes: list[int] = []

    def loss(model: Any, X: Any, y: Any) -> Any:
        sizes.append(len(X))
        return nn.functional.cross_entropy(
            model(input=torch.as_tensor(X)), torch.as_tensor(y)
        )

    base = network()
    members = [near(base, seed) for seed in range(2)]
    soup = ModelSoup(base, members, weights="convex", scoring=minus_loss)
    soup.set_params(params={"loss": loss, "batch_size": 8, "n_passes": 2})
    soup.fit(X, Y)
    assert sizes == [8, 8, 4] * 2


@pytest.mark.parametrize("params", [{"by": "row"}, {"n_passes": 0}, {"batch_size": 0}])
def test_wrong_parameters_are_told(params: dict[str, Any]) -> None:
    base = network()
    soup = ModelSoup(base, [near(base, 0)], weights="convex", scoring=accuracy)
    with pytest.raises(ValueError, match="by must be 'model' or 'layer'"):
        soup.set_params(params=params).fit(X, Y)


def test_layers_are_numbered_or_modules() -> None:
    names = [
        "0.auto_model.embeddings.LayerNorm.bias",
        "0.auto_model.encoder.layer.0.attention.self.query.weight",
        "0.auto_model.encoder.layer.0.output.dense.bias",
        "0.auto_model.encoder.layer.11.output.dense.bias",
        "scale",
    ]
    assert list(layers_of(names)) == [
        "0.auto_model.embeddings.LayerNorm",
        "0.auto_model.encoder.layer.0",
        "0.auto_model.encoder.layer.11",
        "scale",
    ]
