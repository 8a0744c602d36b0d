"""Outputs of transformers, normalized, rotated, combined and projected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize
from sklearn.utils import assert_all_finite

from ensembles._typing import Float64
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.transformers.member_outputs import is_sparse


@dataclass(frozen=True)
class OutputCombiner:
    """Maps the outputs of the members to the combined output.

    Parameters
    ----------
    combiner : Combiner or None
        Rule; None concatenates.
    rule_params : dict of str to value
        Parameters of the rule.
    names : sequence of str, default=()
        Names of the members, for messages; set after they are fitted.
    finite : bool, default=False
        Whether outputs with NaN or infinity are an error.
    normalize : bool, default=False
        Whether outputs are L2-normalized first.
    aligned : bool, default=False
        Whether outputs may differ in width, because they are rotated.
    rotations : list of ndarrays, or None, default=None
        Matrix that is applied to each output; None applies none.
    components : ndarray of shape (n_components, n_columns) or None, default=None
        Principal axes of the combined output; None keeps its columns.
    """

    combiner: Combiner | None
    rule_params: dict[str, Any]
    names: tuple[str, ...] = ()
    finite: bool = False
    normalize: bool = False
    aligned: bool = False
    rotations: list[Float64] | None = None
    components: Float64 | None = None

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return "concatenate" if self.combiner is None else self.combiner.name

    def __call__(self, outputs: Iterable[tuple[int, Any]], weights: Float64) -> Any:
        """Combine outputs.

        Parameters
        ----------
        outputs : iterable of (index, array)
            Outputs of the members with nonzero weight, with the members' indices.
        weights : ndarray of shape (n_members,)
            Weights of all members.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
            Sparse only if concatenated outputs include a sparse one.
        """
        prepared = self.prepared(outputs)
        if self.combiner is None:
            # A Python float does not change the dtype of a float32 output.
            combined = _concatenated(
                [output * float(weights[index]) for index, output in prepared]
            )
        else:
            combined = self._combined(prepared, weights)
        if self.components is None:
            return combined
        return combined @ self.components.T.astype(combined.dtype, copy=False)

    def _combined(
        self, prepared: Iterator[tuple[int, Any]], weights: Float64
    ) -> Float64:
        """Combine outputs by the rule; float32 if all of them are."""
        assert self.combiner is not None
        dtypes = set[np.dtype[Any]]()

        def arrays() -> Iterator[Float64]:
            for _, output in prepared:
                dtypes.add(output.dtype)
                yield output

        used = weights[used_members(weights)]
        combined: Float64 = self.combiner.function(arrays(), used, **self.rule_params)
        is_float32 = dtypes == {np.dtype(np.float32)}
        return combined.astype(np.float32) if is_float32 else combined

    def prepared(self, outputs: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Yield outputs, checked, normalized and rotated.

        Parameters
        ----------
        outputs : iterable of (index, array)
            Outputs of members, with the members' indices.

        Yields
        ------
        (int, ndarray or sparse matrix)
            Sparse only if outputs are concatenated.
        """
        first: tuple[str, int] | None = None
        for index, output in outputs:
            name, array = self.names[index], output
            if self.combiner is not None:
                array = output.toarray() if is_sparse(output) else output
                first = first or (name, array.shape[1])
                if not self.aligned and array.shape[1] != first[1]:
                    raise ValueError(
                        f"outputs must have the same width for rule {self.rule!r}: "
                        f"member {first[0]!r} has {first[1]} columns, {name!r} has "
                        f"{array.shape[1]}; use rule='concatenate' or "
                        "align='procrustes' for different widths"
                    )
            if self.finite:
                values = array.data if is_sparse(array) else array
                assert_all_finite(values, input_name=f"output of member {name!r}")
            if self.normalize:
                array = normalize(array)
            if self.rotations is not None:
                array = array @ self.rotations[index]
            yield index, array


def used_members(weights: Float64) -> list[int]:
    """Indices of the members with nonzero weight; the others do not transform."""
    return [int(index) for index in np.flatnonzero(weights)]


def _concatenated(parts: list[Any]) -> Any:
    if any(is_sparse(part) for part in parts):
        from scipy.sparse import hstack

        return hstack(parts, format="csr")
    return np.hstack(parts)
