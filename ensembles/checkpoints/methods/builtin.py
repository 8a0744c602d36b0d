"""All merge methods; importing this module adds them to the table `RULES`."""

from __future__ import annotations

from ensembles.checkpoints.methods.arithmetic import task_arithmetic
from ensembles.checkpoints.methods.directions import (
    multislerp_task_vectors,
    nuslerp_task_vectors,
)
from ensembles.checkpoints.methods.matrices.isotropic import iso_c, iso_cts
from ensembles.checkpoints.methods.matrices.singular_vectors import tsv
from ensembles.checkpoints.methods.matrices.task_interference import wudi
from ensembles.checkpoints.methods.overlaps import ram
from ensembles.checkpoints.methods.second_moments import fisher, regmean
from ensembles.checkpoints.methods.sparsification.breadcrumbs import (
    breadcrumbs_linear,
    breadcrumbs_ties,
)
from ensembles.checkpoints.methods.sparsification.dare import dare_linear, dare_ties
from ensembles.checkpoints.methods.sparsification.della import della_linear, della_ties
from ensembles.checkpoints.methods.sparsification.magnitude_pruning import (
    magnitude_prune,
)
from ensembles.checkpoints.methods.sparsification.sign_agreement import ties
from ensembles.checkpoints.methods.sparsification.tall_masks import consensus
from ensembles.checkpoints.methods.stock import model_stock
from ensembles.checkpoints.methods.variances import sce
from ensembles.rules.builtin import RULES

__all__ = [
    "RULES",
    "breadcrumbs_linear",
    "breadcrumbs_ties",
    "consensus",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della_ties",
    "fisher",
    "iso_c",
    "iso_cts",
    "magnitude_prune",
    "model_stock",
    "multislerp_task_vectors",
    "nuslerp_task_vectors",
    "ram",
    "regmean",
    "sce",
    "task_arithmetic",
    "ties",
    "tsv",
    "wudi",
]
