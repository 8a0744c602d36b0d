"""Matrix scaling: a linear map of the logarithms of probabilities, with penalties."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.predictions.combiners.accumulation import clipped_logarithm, softmax
from ensembles.predictions.combiners.builtin import FLOOR

# Ridge penalties, in samples: of the deviation from a multiple of the identity, and of
# the intercepts.
DEVIATION_RIDGE = 20.0
INTERCEPT_RIDGE = 5.0


class MatrixScaling:
    """Probabilities softmax((a I + D) log p + b), by penalized maximum likelihood.

    With ``D`` and ``b`` zero it is temperature scaling, with the temperature ``1 / a``.
    Ridge penalties shrink both towards zero, so that rows of a few hundred samples
    suffice; ``a`` is not penalized.

    Attributes
    ----------
    matrix_ : ndarray of shape (n_classes, n_classes)
        The matrix ``a I + D``.
    intercept_ : ndarray of shape (n_classes,)
        The vector ``b``.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks",
    ICML, section 4.2; the penalty of the deviation after "Structured matrix scaling for
    multi-class calibration" (2025), arXiv:2511.03685.
    """

    def fit(
        self, y_proba: Float64, codes: Counts, sample_weight: Float64 | None = None
    ) -> MatrixScaling:
        """Learn from probabilities and the indices of the true classes.

        Parameters
        ----------
        y_proba : ndarray of shape (n_samples, n_classes)
            Probabilities.
        codes : ndarray of shape (n_samples,)
            Index of the class of each sample.
        sample_weight : ndarray of shape (n_samples,) or None, default=None
            Weights that count as repetitions; None weights all samples equally.

        Returns
        -------
        MatrixScaling
        """
        from scipy.optimize import minimize

        logs = clipped_logarithm(FLOOR)(y_proba, 0)
        weight = np.ones(len(logs)) if sample_weight is None else sample_weight
        start = np.zeros(1 + (n_classes := logs.shape[1]) * (n_classes + 1))
        start[0] = 1
        options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8}
        arguments = (logs, codes, weight / weight.sum(), weight.sum())
        result = minimize(
            penalized_loss, start, arguments, "L-BFGS-B", jac=True, options=options
        )
        self.matrix_, self.intercept_ = _matrix(result.x, n_classes)
        return self

    def predict_proba(self, y_proba: Float64) -> Float64:
        """Calibrated probabilities.

        Parameters
        ----------
        y_proba : ndarray of shape (n_samples, n_classes)
            Probabilities.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        logs = clipped_logarithm(FLOOR)(y_proba, 0)
        return np.asarray(softmax(logs @ self.matrix_.T, self.intercept_))


def _matrix(point: Float64, n_classes: int) -> tuple[Float64, Float64]:
    """Matrix and intercepts from the parameters: a, b, then the rows of D."""
    deviation = point[1 + n_classes :].reshape(n_classes, n_classes)
    return point[0] * np.eye(n_classes) + deviation, point[1 : 1 + n_classes]


def penalized_loss(
    point: Float64, logs: Float64, codes: Counts, shares: Float64, size: float
) -> tuple[float, Float64]:
    """Log-loss with ridge penalties, and its gradient.

    Parameters
    ----------
    point : ndarray of shape (1 + n_classes + n_classes ** 2,)
        The scale a, the intercepts b, then the rows of the deviation D.
    logs : ndarray of shape (n_samples, n_classes)
        Logarithms of the probabilities.
    codes : ndarray of shape (n_samples,)
        Index of the class of each sample.
    shares : ndarray of shape (n_samples,)
        Weights of the samples, with sum 1.
    size : float
        Sum of the weights before they were divided by it.

    Returns
    -------
    loss : float
    gradient : ndarray of the shape of ``point``
    """
    n_classes = logs.shape[1]
    matrix, intercept = _matrix(point, n_classes)
    rows = np.arange(len(codes))
    y_proba: Any = softmax(logs @ matrix.T, intercept)
    loss = -float(shares @ np.log(np.maximum(y_proba[rows, codes], 1e-300)))
    residuals = y_proba * shares[:, None]
    residuals[rows, codes] -= shares
    by_matrix, by_intercept = residuals.T @ logs, residuals.sum(axis=0)
    by_scale = np.trace(by_matrix)
    ridge = np.full(len(point), DEVIATION_RIDGE / size)
    ridge[0], ridge[1 : 1 + n_classes] = 0.0, INTERCEPT_RIDGE / size
    gradient = np.concatenate([[by_scale], by_intercept, by_matrix.ravel()])
    return loss + float(ridge @ point**2) / 2, gradient + ridge * point
