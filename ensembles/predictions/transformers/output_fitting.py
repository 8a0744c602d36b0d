"""Rotations, weights and principal axes, learned from the outputs of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ensembles._typing import Float64
from ensembles.orthogonal_maps import principal_axes
from ensembles.predictions.transformers.member_outputs import is_sparse
from ensembles.predictions.transformers.output_combiner import (
    OutputCombiner,
    used_members,
)
from ensembles.predictions.transformers.pair_cosines import pair_products
from ensembles.predictions.transformers.pair_weights import (
    PairWeights,
    SamplePairs,
    choose_weights,
)
from ensembles.predictions.transformers.projections import (
    check_n_components,
    fit_rotations,
)


class OutputFit(NamedTuple):
    """Rotations, weights and principal axes, with scores of the choice.

    Parameters
    ----------
    combiner : OutputCombiner
        With its rotations and principal axes.
    weights : ndarray of shape (n_members,)
        Weights of the members, given or chosen.
    chosen : PairWeights or None
        Scores of chosen weights; None if they are given.
    """

    combiner: OutputCombiner
    weights: Float64
    chosen: PairWeights | None


def fit_outputs(
    combiner: OutputCombiner,
    outputs: Sequence[Any],
    weights: Float64 | str,
    *,
    params: Mapping[str, Any],
    pairs: SamplePairs | None,
    n_components: int | None,
) -> OutputFit:
    """Learn rotations, weights and principal axes from outputs, in this order.

    Parameters
    ----------
    combiner : OutputCombiner
        Rule and settings.
    outputs : sequence of n_members arrays of shape (n_samples, n_columns)
        Outputs for the training samples; may be empty if nothing is learned.
    weights : ndarray of shape (n_members,) or str
        Weights, or the name of the selection that chooses them.
    params : mapping of str to value
        Parameters of the selection.
    pairs : SamplePairs or None
        Rated pairs of the samples; None if the weights are given.
    n_components : int or None
        Number of principal axes; None keeps all columns.

    Returns
    -------
    OutputFit

    Raises
    ------
    ValueError
        If an output is not finite, widths differ without rotations, or there are more
        components than samples or columns.
    """
    chosen = None
    if combiner.aligned:
        arrays = [array for _, array in combiner.prepared(enumerate(outputs))]
        combiner = replace(combiner, rotations=fit_rotations(arrays))
    if isinstance(weights, str):
        assert pairs is not None
        arrays = [array for _, array in combiner.prepared(enumerate(outputs))]
        products = pair_products(
            [array.toarray() if is_sparse(array) else array for array in arrays],
            pairs.first,
            pairs.second,
            concatenated=combiner.combiner is None,
        )
        names = list(combiner.names)
        chosen = choose_weights(weights, params, products, pairs.ratings, names)
        weights = chosen.selected.weights
    if n_components is not None:
        used = [(index, outputs[index]) for index in used_members(weights)]
        vectors = combiner(used, weights)
        if is_sparse(vectors):
            raise ValueError(
                "n_components must be None if concatenated outputs are sparse; use "
                "TruncatedSVD after the ensemble in a pipeline"
            )
        check_n_components(n_components, vectors.shape)
        components = principal_axes([vectors], n_components)
        combiner = replace(combiner, components=components)
    return OutputFit(combiner, weights, chosen)
