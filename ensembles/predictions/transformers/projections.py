"""Rotations of transformers' outputs onto each other; numbers of components."""

from __future__ import annotations

from typing import Any

from ensembles._typing import Float64
from ensembles.orthogonal_maps import procrustes_rotation
from ensembles.selection.table import check_integer


def fit_rotations(outputs: list[Float64]) -> list[Float64]:
    """Matrices that rotate each output onto the first of the widest ones.

    The rows of a matrix are orthonormal, so that a rotation changes no inner product: a
    narrower output is rotated as if it were padded with zeros.

    Parameters
    ----------
    outputs : list of ndarrays of shape (n_samples, n_columns)
        Outputs for the same samples.

    Returns
    -------
    list of ndarrays of shape (n_columns, largest n_columns)
        In the dtypes of the outputs.

    See Also
    --------
    ensembles.orthogonal_maps.procrustes_rotation : The rotation of one output.
    """
    target = max(outputs, key=lambda output: output.shape[1])
    return [procrustes_rotation(o, target).astype(o.dtype) for o in outputs]


def check_n_components(n_components: Any, shape: tuple[int, int] | None = None) -> None:
    """Raise unless a number of components is valid.

    Parameters
    ----------
    n_components : int or None
        Number of components; None keeps all columns.
    shape : (n_samples, n_columns) or None, default=None
        Shape of the training vectors; None if it is not known yet.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is less than 1, or more than the training vectors can have.
    """
    if n_components is None:
        return
    check_integer(n_components=n_components)
    if n_components < 1:
        raise ValueError(f"n_components must be at least 1, found {n_components}")
    if shape is not None and n_components > min(shape):
        raise ValueError(
            f"n_components must be at most {min(shape)} for {shape[0]} samples with "
            f"{shape[1]} columns: found {n_components}"
        )
