"""What a soup is scored on: data of torch, of the scorer's own, and failures."""

from __future__ import annotations

import copy
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ensembles.checkpoints import ModelSoup

pytestmark = pytest.mark.filterwarnings(
    "ignore:selection .* did not beat the best member"
)
rng = np.random.default_rng(0)
IDS = rng.integers(20, size=(40, 6))
MASK = np.ones_like(IDS)
LABELS = (IDS[:, 0] > 9).astype(np.int64)
ROWS = rng.normal(size=(40, 6)).astype(np.float32)


class Output(NamedTuple):
    """As models of Hugging Face answer."""

    loss: Any
    logits: Any


class Reader(nn.Module):
    """A model that is given its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 2)

    def forward(
        self, input_ids: Any, attention_mask: Any, labels: Any = None
    ) -> Output:
        hidden = self.words(input_ids) * attention_mask[..., None]
        logits = self.head(hidden.mean(1))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return Output(loss, logits)


def members(start: nn.Module) -> list[nn.Module]:
    torch.manual_seed(1)
    found = [copy.deepcopy(start) for _ in range(2)]
    for member in found:
        for parameter in member.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return found


def reader() -> nn.Module:
    torch.manual_seed(0)
    return Reader()


def accuracy(model: nn.Module, X: Any, y: Any) -> float:
    given = {name: torch.as_tensor(np.asarray(value)) for name, value in X.items()}
    labels = given.pop("labels", y)
    return float((model(**given).logits.argmax(1).numpy() == np.asarray(labels)).mean())


@pytest.mark.parametrize("kind", [dict, UserDict])  # BatchEncoding is the latter
@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize(
    "params", [{"weights": "convex"}, {"weights": "greedy_soup", "cv": 3}]
)
def test_samples_may_be_a_mapping_of_arrays(
    kind: Any, as_tensors: bool, params: dict[str, Any]
) -> None:
    convert = torch.as_tensor if as_tensors else np.asarray
    given = kind({"input_ids": convert(IDS), "attention_mask": convert(MASK)})
    start = reader()
    soup = ModelSoup(start, members(start), scoring=accuracy, **params)
    soup.fit(given, LABELS)
    assert soup.weights_.sum() == pytest.approx(1)


def test_a_loss_that_the_module_answers_with_is_learned_from() -> None:
    start = reader()
    given = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    soup = ModelSoup(start, members(start), weights="convex", scoring=accuracy)
    by_own = soup.fit(given).weights_
    del given["labels"]
    np.testing.assert_allclose(soup.fit(given, LABELS).weights_, by_own, rtol=1e-6)


def test_rows_must_be_as_many_in_each_array() -> None:
    start = reader()
    soup = ModelSoup(start, members(start), weights="convex", scoring=lambda *_: 0.0)
    with pytest.raises(ValueError, match="X must have the same number of rows, found"):
        soup.fit({"input_ids": IDS, "attention_mask": MASK[:9]}, LABELS)


def test_what_has_no_rows_is_told() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    loader = DataLoader(TensorDataset(torch.from_numpy(ROWS)), batch_size=4)
    for params in ({"weights": "convex"}, {"weights": "greedy_soup", "cv": 3}):
        soup = ModelSoup(start, members(start), scoring=lambda *_: 0.0, **params)
        with pytest.raises(TypeError, match="found DataLoader; pass its samples"):
            soup.fit(loader, LABELS)
    # A scorer may iterate over it.
    soup = ModelSoup(start, members(start), weights="top_k", scoring=lambda *_: 0.0)
    soup.fit(loader)


def test_a_scorer_with_data_of_its_own_needs_none() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    soup = ModelSoup(start, members(start), weights="greedy_soup")
    soup.set_params(scoring=lambda model, X, y: float(model[0].weight.sum()))
    assert soup.fit().soup_score_ is not None
    with pytest.raises(ValueError, match="must have training data, found X=None"):
        soup.set_params(weights="convex").fit()
    with pytest.raises(ValueError, match="on data, found X=None; call fit"):
        soup.set_params(weights="greedy_soup", cv=3).fit()


def fitted() -> tuple[list[Any], Any, Any]:
    X, y = load_iris(return_X_y=True)
    start = SGDClassifier(random_state=0).fit(X, y)
    found = [copy.deepcopy(start) for _ in range(3)]
    for place, member in enumerate(found):
        member.coef_ = member.coef_ + 0.1 * place
    return found, X, y


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_scorer_that_fails_tells_for_which_member_and_may_be_passed_over(
    place: int,
) -> None:
    found, X, y = fitted()

    def failing(model: Any, X: Any, y: Any) -> float:
        if np.array_equal(model.coef_, found[place].coef_):
            raise RuntimeError("out of memory")
        return float(model.score(X, y))

    soup = ModelSoup(SGDClassifier(), found, weights="top_k", scoring=failing)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        soup.fit(X, y)
    note = f"raised by the score of checkpoints[{place}]; pass on_error='drop'"
    assert note in caught.value.__notes__[0]
    soup.set_params(on_error="drop", weights="best")
    with pytest.warns(
        UserWarning, match=rf"the score of checkpoints\[{place}\] failed, and"
    ):
        soup.fit(X, y)
    assert soup.best_index_ != place
    assert soup.weights_[place] == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weights": "learned"}, "'learned': the learned soup is 'convex'"),
        ({"weights": "uniform"}, "'uniform': the uniform soup needs no selection"),
        (
            {"weights": "greedy_soup", "weights_params": {"k": 5}},
            "'k' .*; it is a parameter of top_k",
        ),
    ],
)
def test_names_of_others_lead_to_ours(params: dict[str, Any], message: str) -> None:
    found, X, y = fitted()
    with pytest.raises(ValueError, match=message):
        ModelSoup(SGDClassifier(), found, **params).fit(X, y)


def test_a_loss_must_be_a_tensor_of_one_number() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for loss in (lambda *_: 3, lambda *_: None, lambda model, X, y: model(X)):
        soup = ModelSoup(start, members(start), weights="convex")
        soup.set_params(scoring=lambda *_: 0.0, weights_params={"loss": loss})
        with pytest.raises(TypeError, match="must return a tensor of one number"):
            soup.fit(torch.from_numpy(ROWS), LABELS)
