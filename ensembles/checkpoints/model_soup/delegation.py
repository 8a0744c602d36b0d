"""Methods that a meta-estimator delegates to its fitted estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import unwrap_frozen


def estimator_has(name: str) -> Callable[[Any], bool]:
    """Check for `available_if`: whether the wrapped estimator has an attribute.

    Parameters
    ----------
    name : str
        Name of the attribute.

    Returns
    -------
    callable (meta_estimator) -> bool
        Raises `AttributeError` instead of returning False, as scikit-learn does.
    """

    def check(self: Any) -> bool:
        fitted = vars(self).get("estimator_")
        getattr(unwrap_frozen(self.estimator) if fitted is None else fitted, name)
        return True

    return check


def delegated(name: str, summary: str, returns: str) -> Any:
    """Method that calls the method of ``estimator_``, available if it has one.

    Parameters
    ----------
    name : str
        Name of the method.
    summary : str
        First line of its docstring.
    returns : str
        Type of its return value, for the docstring.

    Returns
    -------
    descriptor
    """

    def method(self: Any, X: Any, **params: Any) -> Any:
        check_is_fitted(self)
        return getattr(self.estimator_, name)(X, **params)

    method.__name__ = name
    method.__doc__ = f"""{summary}

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``{name}``.

        Returns
        -------
        {returns}
        """
    return available_if(estimator_has(name))(method)
