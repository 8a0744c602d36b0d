"""Members whose numbers mean something else are refused, not averaged."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    PoissonRegressor,
    Ridge,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from ensembles.checkpoints import ModelSoup

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 5))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
TARGET = np.exp(0.3 * X[:, 0])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_networks_in_pipelines_must_have_one_activation() -> None:
    relu = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=2))
    tanh = clone(relu).set_params(mlpclassifier__activation="tanh")
    relu.fit(X, Y)
    tanh.fit(X, Y)
    message = "estimator's activation of step 'mlpclassifier', 'relu': the first has 't"
    with pytest.raises(ValueError, match=message):
        ModelSoup(clone(relu), [tanh, tanh]).fit()
    with pytest.raises(ValueError, match=r"activation of step 'mlp.*checkpoints\[1\]"):
        ModelSoup(clone(relu), [relu, tanh]).fit()


def test_pipelines_must_be_of_the_same_steps() -> None:
    ridge, poisson = (
        Pipeline([("m", step)]).fit(X, TARGET) for step in (Ridge(), PoissonRegressor())
    )
    message = r"Pipeline, Ridge: checkpoints\[1\] is of type Pipeline, PoissonRegressor"
    with pytest.raises(TypeError, match=message):
        ModelSoup(Pipeline([("m", Ridge())]), [ridge, poisson]).fit()


def test_frozen_steps_must_have_learned_the_same() -> None:
    one, other = (
        PCA(3, random_state=0).fit(X[rows]) for rows in (slice(40), slice(80))
    )
    first, second, again = (
        make_pipeline(FrozenEstimator(step), SGDClassifier(random_state=0)).fit(X, Y)
        for step in (one, other, copy.deepcopy(one))
    )
    with pytest.raises(
        ValueError, match=r"step 'frozenestimator', which is not averag"
    ):
        ModelSoup(clone(first), [first, second]).fit()
    ModelSoup(clone(first), [first, again]).fit()


def test_steps_that_learn_nothing_must_be_set_alike() -> None:
    first, second, again = (
        make_pipeline(FunctionTransformer(step), SGDClassifier(random_state=0)).fit(
            X, Y
        )
        for step in (np.tanh, np.negative, np.tanh)
    )
    with pytest.raises(
        ValueError, match=r"checkpoints\[1\] has another FunctionTransfo"
    ):
        ModelSoup(clone(first), [first, second]).fit()
    ModelSoup(clone(first), [first, again]).fit()


def test_links_must_be_the_same() -> None:
    identity, log = (
        TweedieRegressor(power=0, link=link).fit(X, TARGET)
        for link in ("identity", "log")
    )
    with pytest.raises(ValueError, match=r"agree in link: checkpoints\[1\] has log"):
        ModelSoup(TweedieRegressor(power=0, link="identity"), [identity, log]).fit()
    with pytest.raises(
        ValueError, match="the estimator's link, 'log': the first has 'i"
    ):
        ModelSoup(TweedieRegressor(power=0, link="log"), [identity, identity]).fit()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_outputs_must_be_the_same() -> None:
    two = MLPClassifier((4,), max_iter=2).fit(X, Y)
    other = copy.deepcopy(two)
    other.out_activation_ = "softmax"
    with pytest.raises(ValueError, match="agree in out_activation_"):
        ModelSoup(MLPClassifier(), [two, other]).fit()


def test_of_many_names_the_first_that_differs_is_told() -> None:
    pandas = pytest.importorskip("pandas")
    wide = pandas.DataFrame(
        rng.normal(size=(80, 20)), columns=[f"c{n}" for n in range(20)]
    )
    moved = wide.rename(columns={"c7": "seven"})
    first, second, short = (
        SGDClassifier(random_state=0).fit(frame, Y)
        for frame in (wide, moved, wide.iloc[:, :19])
    )
    with pytest.raises(ValueError, match="has 'seven' at place 7, the first 'c7'"):
        ModelSoup(SGDClassifier(), [first, second]).fit()
    with pytest.raises(ValueError, match="has 19 of them, the first 20"):
        ModelSoup(SGDClassifier(), [first, short]).fit()


def nets(*kinds: type[nn.Module]) -> list[nn.Module]:
    torch.manual_seed(0)
    first = nn.Linear(4, 8)
    return [
        nn.Sequential(copy.deepcopy(first), kind(), nn.Dropout(0.1 * place))
        for place, kind in enumerate(kinds)
    ]


def test_modules_of_other_parts_are_warned_of() -> None:
    relu, tanh, same = nets(nn.ReLU, nn.Tanh, nn.ReLU)
    with pytest.warns(UserWarning, match=r"checkpoints\[1\] is another .* \(1\): Tanh"):
        ModelSoup(relu, [relu, tanh]).fit()
    ModelSoup(relu, [relu, same]).fit()  # of other dropout, which does nothing here


def test_modules_of_another_configuration_are_warned_of() -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    config: dict[str, Any] = {"vocab_size": 20, "n_embd": 8, "n_layer": 1}
    torch.manual_seed(0)
    two, four = (
        GPT2LMHeadModel(GPT2Config(n_head=heads, **config)) for heads in (2, 4)
    )
    four.load_state_dict(two.state_dict())
    with pytest.warns(UserWarning, match=r"configured otherwise than .*, in n_head"):
        ModelSoup(two, [two, four]).fit()
