"""Built-in kinds of estimators: their parameters, or why they cannot be averaged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ensembles.checkpoints.parameters.pipeline_steps import (
    has_learned_parameters,
    is_averaged,
)
from ensembles.checkpoints.parameters.table import (
    REFUSED,
    STATES,
    ParameterAccess,
    parameter_access,
)

TREES = (
    "trees of different members have no nodes in common; combine their predictions "
    "with EnsembleClassifier or EnsembleRegressor"
)
PARTS = "its parts differ from member to member; combine the predictions of the members"
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
        STATES.setdefault(name, attribute_access("coef_", "intercept_"))
    accesses = {
        f"{linear}_stochastic_gradient.SGDOneClassSVM": attribute_access(
            "coef_", "offset_"
        ),
        f"{linear}_bayes.BayesianRidge": ParameterAccess(_LINE.get, _set_line),
        f"{linear}_bayes.ARDRegression": ParameterAccess(_LINE.get, _set_line),
        f"{bayes}GaussianNB": attribute_access(
            "theta_", "var_", "class_prior_", counts=True
        ),
        f"{bayes}ComplementNB": attribute_access(
            "feature_log_prob_", "class_log_prior_", counts=True
        ),
        f"{bayes}_BaseDiscreteNB": ParameterAccess(
            _probabilities, _set_probabilities, counts=True
        ),
        "sklearn.neural_network._multilayer_perceptron.BaseMultilayerPerceptron": (
            attribute_access("coefs_", "intercepts_", is_permutable=True)
        ),
        "sklearn.neural_network._rbm.BernoulliRBM": attribute_access(
            "components_",
            "intercept_hidden_",
            "intercept_visible_",
            is_permutable=True,
        ),
        # Includes the statistics that partial_fit continues from.
        "sklearn.preprocessing._data.StandardScaler": attribute_access(
            "mean_", "scale_", "var_"
        ),
        "sklearn.preprocessing._data.MinMaxScaler": attribute_access(
            "min_", "scale_", "data_min_", "data_max_", "data_range_"
        ),
        "sklearn.preprocessing._data.MaxAbsScaler": attribute_access(
            "scale_", "max_abs_"
        ),
        "sklearn.preprocessing._data.RobustScaler": attribute_access(
            "center_", "scale_"
        ),
        "sklearn.pipeline.Pipeline": ParameterAccess(
            _of_steps, _into_steps, is_permutable=_networks_of_steps
        ),
        "torch.nn.modules.module.Module": _module_access(
            lambda module: module, initialize=lambda module, X, y: copy.deepcopy(module)
        ),
        "skorch.net.NeuralNet": _module_access(
            lambda net: net.module_, initialize=_initialized
        ),
        "ensembles.embeddings.encoder.SentenceEncoder": _module_access(
            lambda encoder: encoder.model_, initialize=_loaded
        ),
    }
    for name, access in accesses.items():
        STATES.setdefault(name, access)
    for name, reason in REASONS.items():
        REFUSED.setdefault(name, reason)


def attribute_access(*names: str, **properties: Any) -> ParameterAccess:
    """Access to parameters in attributes: arrays, numbers, or lists of arrays.

    Parameters
    ----------
    *names : str
        Names of the attributes; missing attributes and None are left out.
    **properties
        Further arguments of `ParameterAccess`, such as ``counts``.

    Returns
    -------
    ParameterAccess
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
                array = np.asarray(state[name])
                setattr(estimator, name, array if np.ndim(value) else array[()])

    return ParameterAccess(get, set, **properties)


def _parts(name: str, value: Any) -> Sequence[tuple[str, Any]]:
    if value is None:
        return []
    if isinstance(value, list):
        return [(f"{name}.{index}", part) for index, part in enumerate(value)]
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is sparse; call densify() on the estimator first")
    return [(name, value)]


# Average probabilities: the mean of log-probabilities is a geometric mean and does not
# sum to 1.
LOGARITHMS = ("feature_log_prob_", "class_log_prior_")


def _probabilities(estimator: Any) -> dict[str, Any]:
    logarithms = attribute_access(*LOGARITHMS).get(estimator)
    return {name: np.exp(value) for name, value in logarithms.items()}


def _set_probabilities(estimator: Any, state: dict[str, Any]) -> None:
    with np.errstate(divide="ignore"):  # probabilities of 0
        logarithms = {name: np.log(value) for name, value in state.items()}
    attribute_access(*LOGARITHMS).set(estimator, logarithms)


_LINE = attribute_access("coef_", "intercept_")


def _set_line(estimator: Any, state: dict[str, Any]) -> None:
    """Set the coefficients; drop their covariance, which is unknown for a mean."""
    _LINE.set(estimator, state)
    vars(estimator).pop("sigma_", None)


def _module_access(
    module: Callable[[Any], Any], initialize: Callable[[Any, Any, Any], Any]
) -> ParameterAccess:
    """Access to the parameters of an estimator that holds a PyTorch module."""

    def get(estimator: Any) -> dict[str, Any]:
        return dict(module(estimator).state_dict())

    def set(estimator: Any, state: dict[str, Any]) -> None:
        module(estimator).load_state_dict(state)

    def parameters(estimator: Any) -> list[str]:
        """Names of the parameters, without buffers, which optimizers do not change."""
        named = module(estimator).named_parameters(remove_duplicate=False)
        return [name for name, _ in named]

    return ParameterAccess(
        get, set, initialize=initialize, module=module, is_permutable=parameters
    )


def _initialized(net: Any, X: Any, y: Any) -> Any:
    """Initialized copy of a skorch net, with its classes; not trained."""
    from sklearn.base import clone

    initialized = clone(net).initialize()
    if y is not None and hasattr(type(net), "classes_"):
        initialized.classes_inferred_ = np.unique(y)
    return initialized


def _loaded(encoder: Any, X: Any, y: Any) -> Any:
    from sklearn.base import clone

    return clone(encoder).fit()


def _steps(pipeline: Any) -> list[tuple[str, Any]]:
    """Averaged steps; raises if the last step predicts but cannot be averaged."""
    last = pipeline.steps[-1][1]
    if has_learned_parameters(last) and hasattr(last, "predict"):
        parameter_access(last)  # raises for kinds that cannot be averaged
    return [(name, step) for name, step in pipeline.steps if is_averaged(step)]


def _of_steps(pipeline: Any) -> dict[str, Any]:
    return {
        f"{name}.{key}": value
        for name, step in _steps(pipeline)
        for key, value in parameter_access(step).get(step).items()
    }


def _networks_of_steps(pipeline: Any) -> list[str]:
    return [
        f"{name}.{key}"
        for name, step in _steps(pipeline)
        for key in parameter_access(step).permutable_names(step)
    ]


def _into_steps(pipeline: Any, state: dict[str, Any]) -> None:
    for name, step in _steps(pipeline):
        step_state = {
            key.removeprefix(f"{name}."): value
            for key, value in state.items()
            if key.startswith(f"{name}.")
        }
        parameter_access(step).set(step, step_state)


register_builtin()
