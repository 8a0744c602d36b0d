"""Built-in kinds of estimators: their parameters, or why they cannot be averaged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ensembles.checkpoints.parameters.pipeline_steps import is_averaged, learns
from ensembles.checkpoints.parameters.table import REFUSED, STATES, State, state_of

TREES = (
    "trees of different members have no nodes in common; combine what they predict, "
    "with EnsembleClassifier or EnsembleRegressor"
)
PARTS = "its parts differ from member to member; combine what the members predict"
AXES = "the order and the signs of its components are arbitrary in each member"
KEPT = "it keeps samples of its training data, which members do not share"
REASONS = {
    "sklearn.tree": TREES,
    "sklearn.ensemble": PARTS,
    "sklearn.ensemble._forest": TREES,
    "sklearn.ensemble._gb": TREES,
    "sklearn.ensemble._hist_gradient_boosting": TREES,
    "sklearn.neighbors": KEPT,
    "sklearn.gaussian_process": KEPT,
    "sklearn.kernel_ridge": KEPT,
    "sklearn.svm._base.BaseLibSVM": KEPT,
    "sklearn.cluster": AXES,
    "sklearn.mixture": AXES,
    "sklearn.decomposition": AXES,
    "sklearn.cross_decomposition": AXES,
    "sklearn.discriminant_analysis": AXES,
    "xgboost": TREES,
    "lightgbm": TREES,
    "catboost": TREES,
}


def register_builtin() -> None:
    """Add the built-in kinds to the tables, unless they are registered already."""
    linear, bayes = "sklearn.linear_model.", "sklearn.naive_bayes."
    for name in (
        f"{linear}_base.LinearModel",
        f"{linear}_base.LinearClassifierMixin",
        f"{linear}_stochastic_gradient.BaseSGDRegressor",
        f"{linear}_glm.glm._GeneralizedLinearRegressor",
    ):
        STATES.setdefault(name, attributes("coef_", "intercept_"))
    known = {
        f"{linear}_stochastic_gradient.SGDOneClassSVM": attributes("coef_", "offset_"),
        f"{linear}_bayes.BayesianRidge": State(_LINE.get, _set_line),
        f"{linear}_bayes.ARDRegression": State(_LINE.get, _set_line),
        f"{bayes}GaussianNB": attributes("theta_", "var_", "class_prior_", counts=True),
        f"{bayes}ComplementNB": attributes(
            "feature_log_prob_", "class_log_prior_", counts=True
        ),
        f"{bayes}_BaseDiscreteNB": State(
            _probabilities, _set_probabilities, counts=True
        ),
        "sklearn.neural_network._multilayer_perceptron.BaseMultilayerPerceptron": (
            attributes("coefs_", "intercepts_", is_network=True)
        ),
        "sklearn.neural_network._rbm.BernoulliRBM": attributes(
            "components_",
            "intercept_hidden_",
            "intercept_visible_",
            is_network=True,
        ),
        # Includes the statistics that partial_fit continues from.
        "sklearn.preprocessing._data.StandardScaler": attributes(
            "mean_", "scale_", "var_"
        ),
        "sklearn.preprocessing._data.MinMaxScaler": attributes(
            "min_", "scale_", "data_min_", "data_max_", "data_range_"
        ),
        "sklearn.preprocessing._data.MaxAbsScaler": attributes("scale_", "max_abs_"),
        "sklearn.preprocessing._data.RobustScaler": attributes("center_", "scale_"),
        "sklearn.pipeline.Pipeline": State(
            _of_steps, _into_steps, is_network=_networks_of_steps
        ),
        "torch.nn.modules.module.Module": _holding(
            lambda module: module, start=lambda module, X, y: copy.deepcopy(module)
        ),
        "skorch.net.NeuralNet": _holding(lambda net: net.module_, start=_initialized),
        "ensembles.embeddings.encoder.SentenceEncoder": _holding(
            lambda encoder: encoder.model_, start=_loaded
        ),
    }
    for name, state in known.items():
        STATES.setdefault(name, state)
    for name, reason in REASONS.items():
        REFUSED.setdefault(name, reason)


def attributes(*names: str, **facts: Any) -> State:
    """State in attributes: arrays, numbers, or lists of arrays.

    Parameters
    ----------
    *names : str
        Names of the attributes; missing ones and those that are None are left out.
    **facts
        Further arguments of `State`, such as ``is_network`` and ``counts``.

    Returns
    -------
    State
    """

    def get(estimator: Any) -> dict[str, Any]:
        return {
            key: np.ascontiguousarray(value) if np.ndim(value) else np.array(value)
            for name in names
            for key, value in _parts(name, getattr(estimator, name, None))
        }

    def set(estimator: Any, state: dict[str, Any]) -> None:
        for name in names:
            value = getattr(estimator, name, None)
            if isinstance(value, list):
                parts = [state[key] for key, _ in _parts(name, value)]
                setattr(estimator, name, parts)
            elif value is not None:
                found = np.asarray(state[name])
                setattr(estimator, name, found if np.ndim(value) else found[()])

    return State(get, set, **facts)


def _parts(name: str, value: Any) -> Sequence[tuple[str, Any]]:
    if value is None:
        return []
    if isinstance(value, list):
        return [(f"{name}.{place}", part) for place, part in enumerate(value)]
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is sparse; call densify() on the estimator first")
    return [(name, value)]


# Average probabilities: the mean of log-probabilities is a geometric mean and does not
# sum to 1.
LOGARITHMS = ("feature_log_prob_", "class_log_prior_")


def _probabilities(estimator: Any) -> dict[str, Any]:
    found = attributes(*LOGARITHMS).get(estimator)
    return {name: np.exp(value) for name, value in found.items()}


def _set_probabilities(estimator: Any, state: dict[str, Any]) -> None:
    with np.errstate(divide="ignore"):  # probabilities of 0
        found = {name: np.log(value) for name, value in state.items()}
    attributes(*LOGARITHMS).set(estimator, found)


_LINE = attributes("coef_", "intercept_")


def _set_line(estimator: Any, state: dict[str, Any]) -> None:
    """Set the coefficients; drop their covariance, which is unknown for a mean."""
    _LINE.set(estimator, state)
    vars(estimator).pop("sigma_", None)


def _holding(
    module: Callable[[Any], Any], start: Callable[[Any, Any, Any], Any]
) -> State:
    """State of an estimator that holds a PyTorch module."""

    def get(estimator: Any) -> dict[str, Any]:
        return dict(module(estimator).state_dict())

    def set(estimator: Any, state: dict[str, Any]) -> None:
        module(estimator).load_state_dict(state)

    def parameters(estimator: Any) -> list[str]:
        """Names of the parameters, without buffers: no optimizer changes those."""
        named = module(estimator).named_parameters(remove_duplicate=False)
        return [name for name, _ in named]

    return State(get, set, start=start, module=module, is_network=parameters)


def _initialized(net: Any, X: Any, y: Any) -> Any:
    """Initialized copy of a skorch net, with its classes; not trained."""
    from sklearn.base import clone

    found = clone(net).initialize()
    if y is not None and hasattr(type(net), "classes_"):
        found.classes_inferred_ = np.unique(y)
    return found


def _loaded(encoder: Any, X: Any, y: Any) -> Any:
    from sklearn.base import clone

    return clone(encoder).fit()


def _steps(pipeline: Any) -> list[tuple[str, Any]]:
    """Averaged steps; raises if the last step predicts but cannot be averaged."""
    last = pipeline.steps[-1][1]
    if learns(last) and hasattr(last, "predict"):
        state_of(last)  # raises for kinds that cannot be averaged
    return [(name, step) for name, step in pipeline.steps if is_averaged(step)]


def _of_steps(pipeline: Any) -> dict[str, Any]:
    return {
        f"{name}.{key}": value
        for name, step in _steps(pipeline)
        for key, value in state_of(step).get(step).items()
    }


def _networks_of_steps(pipeline: Any) -> list[str]:
    return [
        f"{name}.{key}"
        for name, step in _steps(pipeline)
        for key in state_of(step).network(step)
    ]


def _into_steps(pipeline: Any, state: dict[str, Any]) -> None:
    for name, step in _steps(pipeline):
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
        state_of(step).set(step, own)


register_builtin()
