"""Learned soups: the gradient beside finite differences, and what it brings."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from ensembles._typing import Float64
from ensembles.checkpoints import ModelSoup
from ensembles.checkpoints.compatibility.layers import layers_of
from ensembles.checkpoints.model_soup.gradients import products
from ensembles.checkpoints.model_soup.learned import LearnedSoup
from ensembles.checkpoints.model_soup.merged_estimator import (
    MergedEstimator,
    build_merged_estimator,
)
from ensembles.rules import RULES

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


def merged(dtype: torch.dtype = torch.float64) -> MergedEstimator:
    base = network(dtype)
    members = [near(base, seed) for seed in range(N_MEMBERS)]
    names = [str(place) for place in range(N_MEMBERS)]
    return build_merged_estimator(base, members, names, rule=RULES["mean"], params={})


X = np.random.default_rng(0).normal(size=(20, 4))
Y = np.random.default_rng(1).integers(3, size=20)


def learned() -> LearnedSoup:
    return LearnedSoup(merged(), [(X, Y, {})])


def column(n_groups: int) -> Float64:
    drawn = np.random.default_rng(2).uniform(0.1, 1, (N_MEMBERS, n_groups))
    return np.asarray(drawn / drawn.sum(0))


@pytest.mark.parametrize("by", ["model", "layer"])
def test_the_gradient_is_that_of_finite_differences(by: str) -> None:
    one = learned()
    weights = column(len(one.merged.layers) if by == "layer" else 1)
    found = one.loss_gradients(weights, X, Y, None, 1.5)
    # Along the simplex: what one member gains another loses.
    for group in range(weights.shape[1]):
        for member in range(1, N_MEMBERS):
            moved = weights.copy()
            moved[member, group] += STEP
            moved[0, group] -= STEP
            above = one.loss_gradients(moved, X, Y, None, 1.5).loss
            moved[:, group] = 2 * weights[:, group] - moved[:, group]
            below = one.loss_gradients(moved, X, Y, None, 1.5).loss
            slope = found.by_weights[member, group] - found.by_weights[0, group]
            assert (above - below) / (2 * STEP) == pytest.approx(slope, rel=1e-5)


def test_the_slope_by_the_sharpness_is_that_of_finite_differences() -> None:
    one, weights = learned(), column(1)
    found = one.loss_gradients(weights, X, Y, None, 1.5)
    above = one.loss_gradients(weights, X, Y, None, 1.5 * np.exp(STEP)).loss
    below = one.loss_gradients(weights, X, Y, None, 1.5 * np.exp(-STEP)).loss
    assert (above - below) / (2 * STEP) == pytest.approx(found.by_temperature, rel=1e-5)


def test_the_gradient_through_all_members_at_once_is_the_same() -> None:
    """Held against the published way: all members stacked, and autograd through it."""
    one, weights = learned(), column(1)
    found = one.loss_gradients(weights, X, Y, None, 1.0)
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
    soup = ModelSoup(base, members, weights="convex", scoring=minus_loss)
    soup.set_params(weights_params=params)
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


@pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member", "ignore:the loss of"
)
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
    soup.set_params(weights_params={"loss": loss, "batch_size": 8, "n_passes": 2})
    soup.fit(X, Y)
    assert sizes == [8, 8, 4] * 2


@pytest.mark.parametrize("by", ["model", "layer"])
def test_a_loss_without_slopes_that_are_finite_is_told(by: str) -> None:
    base = network()
    members = [near(base, seed) for seed in range(2)]
    soup = ModelSoup(base, members, weights="convex", scoring=accuracy)
    params = {"by": by, "loss": lambda m, X, y: m(torch.as_tensor(X)).sqrt().mean()}
    with pytest.raises(
        ValueError, match="the loss and its gradients must be finite: th"
    ):
        soup.set_params(weights_params=params).fit(X, Y)


def test_a_score_by_layer_that_is_not_finite_is_told() -> None:
    base = network()
    members = [near(base, seed) for seed in range(2)]
    left = iter([0.0] * 3)

    def score(model: Any, X: Any, y: Any) -> float:
        return next(left, np.nan)

    soup = ModelSoup(base, members, weights="convex", scoring=score)
    with pytest.raises(ValueError, match=r"score must be finite: nan at weights \[\["):
        soup.set_params(weights_params={"by": "layer"}).fit(X, Y)


def test_passes_end_where_the_loss_is_flat_or_it_is_told() -> None:
    """Two members of which the labels are made: equal weights are the optimum."""
    torch.manual_seed(0)
    base = nn.Linear(4, 1).double()
    members = [near(base, seed, scale=0.5) for seed in range(3)]
    inputs = np.random.default_rng(0).normal(size=(64, 4))
    with torch.no_grad():
        wanted = sum(m(torch.as_tensor(inputs)) for m in members[:2])[:, 0].numpy() / 2

    def minus_error(model: nn.Module, X: Any, y: Any) -> float:
        with torch.no_grad():
            return -float(
                ((model(torch.as_tensor(X))[:, 0] - torch.as_tensor(y)) ** 2).mean()
            )

    soup = ModelSoup(base, members, weights="convex", scoring=minus_error)
    with pytest.warns(
        UserWarning, match=r"loss .* still fell .* raise n_passes above 2"
    ):
        soup.set_params(weights_params={"n_passes": 2}).fit(inputs, wanted)
    noisy = wanted + np.random.default_rng(1).normal(size=64)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the loss of")
        soup.set_params(weights_params=None).fit(inputs, noisy)
        assert len(soup.history_) < 20
        short = soup.soup_score_
        soup.set_params(weights_params={"n_passes": 200, "learning_rate": 0.03})
        soup.fit(inputs, noisy)
        assert short is not None
        assert soup.soup_score_ is not None
        assert short >= soup.soup_score_ - 1e-3


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
def test_among_equal_scores_the_latest_pass_wins() -> None:
    base = network()
    members = [near(base, seed) for seed in range(3)]
    soup = ModelSoup(base, members, weights="convex", scoring=lambda *_: 0.5)
    soup.fit(X, Y)
    np.testing.assert_array_equal(soup.weights_, soup.history_[-1].weights)
    assert not np.allclose(soup.weights_, 1 / 3)


@pytest.mark.filterwarnings("ignore:selection .* did not beat the best member")
@pytest.mark.parametrize("best", [0, 1])
def test_weights_by_layer_have_a_column_even_for_one_layer(best: int) -> None:
    base = nn.Sequential(nn.Linear(4, 3)).double()
    members = [near(base, seed) for seed in range(2)]
    values = iter(np.eye(2)[best].tolist())
    soup = ModelSoup(
        base,
        members,
        weights="convex",
        weights_params={"by": "layer", "n_passes": 1},
        scoring=lambda *_: next(values, 0.5),
    )
    assert soup.fit(X, Y).weights_.shape == (2, 1)


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3).double()

    def forward(self, X: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.inner(X)}


def test_a_temperature_must_have_a_tensor_to_multiply() -> None:
    base = Dictionary()
    members = [near(base, seed) for seed in range(2)]

    def loss(model: Any, X: Any, y: Any) -> Any:
        logits = model(torch.as_tensor(X))["logits"]
        return nn.functional.cross_entropy(logits, torch.as_tensor(y))

    params = {"temperature": True, "loss": loss}
    soup = ModelSoup(base, members, weights="convex", scoring=lambda *_: 0.0)
    with pytest.raises(ValueError, match="temperature=True multiplies the output of"):
        soup.set_params(weights_params=params).fit(X, Y)
    with pytest.raises(
        ValueError, match=r"must be a tensor for the default loss, found dict; pass"
    ):
        soup.set_params(weights_params={}).fit(X, Y)


def test_what_has_no_usual_loss_is_told() -> None:
    members = [near(nn.Linear(4, 1).double(), seed) for seed in range(2)]
    soup = ModelSoup(members[0], members, weights="convex", scoring=lambda *_: 0.0)
    with pytest.raises(
        ValueError, match="y must not be integers if the module outputs"
    ):
        soup.fit(X, Y)
    with pytest.raises(
        ValueError, match="X must be numbers for the default loss, found"
    ):
        soup.fit(["a", "b"], [0.0, 1.0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "mse"}, "loss must be a callable or None, found 'mse'"),
        ({"n_passes": 2.5}, "n_passes must be an integer, found 2.5"),
        ({"learning_rate": "x"}, "learning_rate must be a number, found 'x'"),
    ],
    ids=str,
)
def test_parameters_of_another_kind_are_told(
    params: dict[str, Any], message: str
) -> None:
    base = network()
    soup = ModelSoup(base, [near(base, 0)], weights="convex", scoring=accuracy)
    with pytest.raises(TypeError, match=message):
        soup.set_params(weights_params=params).fit(X, Y)


def test_slopes_of_narrow_members_are_taken_in_float64() -> None:
    one, narrow = merged(torch.float64), merged(torch.float64)
    gradients = {name: np.ones_like(array) for name, array in one.arrays.items()}
    narrow.set_weights(np.full(N_MEMBERS, 1 / N_MEMBERS))
    rounded = {n: a.astype(ml_dtypes.bfloat16) for n, a in narrow.arrays.items()}
    small = {n: g.astype(ml_dtypes.bfloat16) for n, g in gradients.items()}
    found = products(one.members, small, rounded)
    for name, by_member in found.items():
        for place, member in enumerate(one.members):
            tensor = member.layout[name]
            own = np.empty(tensor.shape)
            tensor.source.read_into(own.reshape(-1).view(np.uint8).data, tensor.offset)
            exact = (own - rounded[name].astype(np.float64)).sum()
            assert by_member[place] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("params", [{"by": "row"}, {"n_passes": 0}, {"batch_size": 0}])
def test_wrong_parameters_are_told(params: dict[str, Any]) -> None:
    base = network()
    soup = ModelSoup(base, [near(base, 0)], weights="convex", scoring=accuracy)
    with pytest.raises(ValueError, match="by must be 'model' or 'layer'"):
        soup.set_params(weights_params=params).fit(X, Y)


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
