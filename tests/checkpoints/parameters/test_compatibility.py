"""Members whose numbers mean something else are refused, not averaged."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomTreesEmbedding
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    SplineTransformer,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from ensembles.checkpoints import ModelSoup
from ensembles.checkpoints.parameters.compatibility import is_same

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


class Clip:
    """A step that knows nothing of scikit-learn's base."""

    limit = 1.0

    def fit(self, X: Any, y: Any = None) -> Clip:
        return self

    def transform(self, X: Any) -> Any:
        return np.clip(X, -self.limit, self.limit)


@pytest.mark.filterwarnings("ignore:Bins whose width")
@pytest.mark.parametrize(
    "steps",
    [
        (TruncatedSVD(2, random_state=0), TruncatedSVD(2, random_state=0)),
        (PCA(2, svd_solver="randomized", random_state=0),) * 2,
        (
            RandomTreesEmbedding(3, random_state=0),
            RandomTreesEmbedding(3, random_state=0),
        ),
        (SplineTransformer(), SplineTransformer()),
        (KBinsDiscretizer(3), KBinsDiscretizer(3)),
        (
            make_pipeline(StandardScaler(), PCA(2)),
            make_pipeline(StandardScaler(), PCA(2)),
        ),
    ],
    ids=lambda steps: type(steps[0]).__name__,
)
def test_frozen_steps_that_learned_the_same_are_the_same(
    steps: tuple[Any, Any],
) -> None:
    fitted = [FrozenEstimator(clone(step).fit(X)) for step in steps]
    fitted[1].transform(X)
    members = [
        pickle.loads(
            pickle.dumps(make_pipeline(one, SGDClassifier(random_state=0)))
        ).fit(X, Y)
        for one in (*fitted, fitted[0])
    ]
    ModelSoup(clone(members[0]), members).fit()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Binarizer(threshold=5), Binarizer(threshold=np.float64(5))),
        (Normalizer(copy=False), Normalizer(copy=True)),
        ("passthrough", None),
        (Clip(), Clip()),
    ],
    ids=lambda step: type(step).__name__,
)
def test_steps_that_do_the_same_may_be_written_otherwise(one: Any, other: Any) -> None:
    members = [
        Pipeline([("first", step), ("last", SGDClassifier(random_state=0))]).fit(X, Y)
        for step in (one, other)
    ]
    ModelSoup(clone(members[0]), members).fit()


def test_texts_are_hashed_alike_in_every_process() -> None:
    texts = np.array(["to be", "or not", "to be", "or not"])
    members = [
        make_pipeline(HashingVectorizer(stop_words=["to"]), SGDClassifier()).fit(
            texts, [0, 1, 0, 1]
        )
        for _ in range(2)
    ]
    ModelSoup(clone(members[0]), members).fit()


def test_of_functions_without_a_name_it_is_not_told() -> None:
    members = [
        make_pipeline(FunctionTransformer(step), SGDClassifier(random_state=0)).fit(
            X, Y
        )
        for step in (lambda X: X, lambda X: X)
    ]
    with pytest.warns(UserWarning, match=r"cannot verify that step 'functiontransf"):
        ModelSoup(clone(members[0]), members).fit()


def test_steps_that_learn_nothing_must_be_set_alike() -> None:
    first, second, again = (
        make_pipeline(FunctionTransformer(step), SGDClassifier(random_state=0)).fit(
            X, Y
        )
        for step in (np.tanh, np.negative, np.tanh)
    )
    with pytest.raises(
        ValueError, match=r"the FunctionTransformer of checkpoints\[1\] dif"
    ):
        ModelSoup(clone(first), [first, second]).fit()
    ModelSoup(clone(first), [first, again]).fit()


def test_links_must_be_the_same() -> None:
    identity, log = (
        TweedieRegressor(power=0, link=link).fit(X, TARGET)
        for link in ("identity", "log")
    )
    with pytest.raises(ValueError, match=r"agree in link: checkpoints\[1\] has LogLi"):
        ModelSoup(TweedieRegressor(power=0, link="identity"), [identity, log]).fit()
    with pytest.raises(ValueError, match="the estimator's link, 'LogLink': the first"):
        ModelSoup(TweedieRegressor(power=0, link="log"), [identity, identity]).fit()
    ModelSoup(TweedieRegressor(power=0), [identity, identity]).fit()  # link="auto"


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
    with pytest.raises(ValueError, match="has 'seven' at index 7, the first 'c7'"):
        ModelSoup(SGDClassifier(), [first, second]).fit()
    with pytest.raises(ValueError, match="has 19 entries, the first 20"):
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
    with pytest.warns(
        UserWarning, match=r"checkpoints\[1\] has another arch.*\(1\): Tanh"
    ):
        ModelSoup(relu, [relu, tanh]).fit()
    ModelSoup(relu, [relu, same]).fit()  # of other dropout, which does nothing here


class Own(nn.Module):
    """Parts that are called as settings of scikit-learn are."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.link = nn.Linear(2, 2)
        self.power = nn.Parameter(torch.ones(1))


def test_parts_of_a_module_are_no_settings() -> None:
    one = Own()
    ModelSoup(one, [one, copy.deepcopy(one)]).fit()


class Configured(nn.Module):
    """With a configuration that holds an array."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.config = SimpleNamespace(to_dict=lambda: {"scale": np.ones(2)})


def test_configurations_may_hold_anything() -> None:
    torch.manual_seed(0)
    one, other = Configured(), Configured()
    other.load_state_dict(one.state_dict())
    ModelSoup(one, [one, other]).fit()


def test_modules_of_another_configuration_are_warned_of() -> None:
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    config: dict[str, Any] = {"vocab_size": 20, "n_embd": 8, "n_layer": 1}
    torch.manual_seed(0)
    two, four = (
        GPT2LMHeadModel(GPT2Config(n_head=heads, **config)) for heads in (2, 4)
    )
    four.load_state_dict(two.state_dict())
    with pytest.warns(UserWarning, match=r"another configuration than .*, in n_head"):
        ModelSoup(two, [two, four]).fit()


class Nested:
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (torch.ones(3), torch.ones(3), True),
        (torch.ones(3), torch.zeros(3), False),
        (torch.ones(3), torch.ones(1, 3), False),
        (np.array([1, np.nan]), np.array([1, np.nan]), True),
        (np.array([1.0]), np.array([1, 2.0]), False),
        (np.array(["a"]), np.array(["a"]), True),
        (np.array([{"a": 1}], object), np.array([{"a": 2}], object), False),
        (csr_array(np.eye(3)), csr_array(np.eye(3)), True),
        (csr_array(np.eye(3)), csr_array(2 * np.eye(3)), False),
        ({"a": [np.ones(2)]}, {"a": [np.ones(2)]}, True),
        ({"a": [np.ones(2)]}, {"a": [np.zeros(2)]}, False),
        ({"a": 1}, {"b": 1}, False),
        ((1, 2), (1, 2, 3), False),
        (Nested(np.ones(2)), Nested(np.ones(2)), True),
        (Nested(lambda: 0), Nested(lambda: 0), None),
        ([lambda: 0, 1], [lambda: 0, 2], False),
        (np.sin, np.cos, False),
        (Ridge, SGDClassifier, False),
        (1, 1.0, True),
        (2**60 + 1, float(2**60), False),
        (np.array([2**60 + 1]), np.array([2.0**60]), False),
        (np.array([0.0]), np.array([-0.0]), True),
        (np.array([1, 2]), np.array([1.0, 2.0]), True),
        (np.eye(2), np.asfortranarray(np.eye(2)), True),
        (np.ones((2, 2))[:, ::2], np.ones((2, 1)), True),
        (np.str_("a"), "a", True),
        (frozenset("abc"), frozenset("cba"), True),
        ({"random_state": 1, "a": 2}, {"random_state": 2, "a": 2}, True),
        (np.datetime64("2024-01-01"), np.datetime64("2024-01-02"), False),
        (np.array([1j]), np.array([1j]), True),
        ("a", "b", False),
        (1, "1", False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_the_same_or_not_or_unknown(
    one: Any, other: Any, same: bool | None
) -> None:
    assert is_same(one, other) is same


def test_what_holds_itself_is_compared() -> None:
    one, other = Nested(None), Nested(None)
    one.value, other.value = one, other
    assert is_same(one, other) is True
    other.value = Nested(other)
    assert is_same(one, other) is False


def test_what_is_too_deep_is_unknown() -> None:
    one, other = list[Any](), list[Any]()
    for _ in range(5000):
        one, other = [one], [other]
    assert is_same(one, other) is None


def test_one_list_used_twice_equals_two_equal_lists() -> None:
    columns = [0, 1]
    assert is_same({"a": columns, "b": columns}, {"a": [0, 1], "b": [0, 1]}) is True


def test_a_function_without_a_name_is_the_same_as_itself() -> None:
    step = lambda X: X  # noqa: E731
    assert is_same(Nested(step), Nested(step)) is True


@pytest.mark.parametrize(
    "step",
    [
        PolynomialFeatures(),
        PCA(3, random_state=0),
        KBinsDiscretizer(3, strategy="uniform"),
        make_pipeline(SplineTransformer(), PolynomialFeatures()),
        ColumnTransformer([("some", MinMaxScaler(), [0, 1])], remainder="passthrough"),
        FeatureUnion([("all", StandardScaler()), ("some", SelectKBest(k=2))]),
    ],
    ids=lambda step: type(step).__name__,
)
def test_steps_that_are_the_same_in_all_members_need_no_mean(step: Any) -> None:
    X, y = load_iris(return_X_y=True)
    members = [
        make_pipeline(clone(step), LogisticRegression(C=c, max_iter=500)).fit(X, y)
        for c in (0.1, 1.0)
    ]
    soup = ModelSoup(members[0], members).fit()
    mean = np.mean([member[-1].coef_ for member in members], axis=0)
    np.testing.assert_allclose(soup.estimator_[-1].coef_, mean)
    other = make_pipeline(clone(step), LogisticRegression(max_iter=500))
    other.fit(3 * X[::2] + 1, y[::2])
    if type(step) is not PolynomialFeatures:  # which learns names of columns alone
        with pytest.raises(ValueError, match=r"wrap it in sklearn\.frozen\.FrozenEst"):
            ModelSoup(members[0], [*members, other]).fit()


def test_texts_of_one_vocabulary_go_through_the_same_step() -> None:
    texts = ["a good film", "a bad film", "good acting", "bad plot"] * 5
    members = [
        make_pipeline(TfidfVectorizer(), LogisticRegression(C=c)).fit(
            texts, [1, 0] * 10
        )
        for c in (0.1, 1.0)
    ]
    soup = ModelSoup(members[0], members).fit()
    assert soup.predict(["good film"]) == [1]


def test_the_last_step_must_be_of_a_kind_that_is_averaged() -> None:
    X, y = load_iris(return_X_y=True)
    trees = make_pipeline(StandardScaler(), DecisionTreeClassifier()).fit(X, y)
    with pytest.raises(TypeError, match="DecisionTreeClassifier cannot be averaged"):
        ModelSoup(trees, [trees, trees]).fit()


@pytest.mark.parametrize("missing", [np.nan, -1])
def test_steps_that_look_for_nan_are_the_same_after_a_pickle(missing: float) -> None:
    X, y = load_iris(return_X_y=True)
    imputer = FrozenEstimator(SimpleImputer(missing_values=missing).fit(X))
    first = make_pipeline(imputer, SGDClassifier(random_state=0)).fit(X, y)
    members = [pickle.loads(pickle.dumps(first)) for _ in range(2)]
    soup = ModelSoup(first, members).fit()
    np.testing.assert_array_equal(soup.predict(X), first.predict(X))


def test_nan_is_the_same_as_nan_and_as_no_number() -> None:
    nan = float("nan")
    assert is_same({"a": [nan]}, {"a": [float("nan")]}) is True
    assert is_same(nan, 1.0) is False
    assert is_same(1.0, nan) is False
    assert is_same(np.float32("nan"), np.float32("nan")) is True
