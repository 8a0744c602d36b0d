"""Recipes with a single merge method each, for a comparison of the two tools."""

from __future__ import annotations

import json
from typing import Any

from recipe_models import BASE, CHAT, CODE, MATH, QWEN2, Example

TWO, THREE = (CHAT, CODE), (CHAT, CODE, MATH)


def method_example(
    method: str, base: str | None, *paths: str, **shared: Any
) -> Example:
    """Example of a merge method, for a comparison of the two tools."""
    of_models = {key: shared.pop(key) for key in PER_MODEL if key in shared}
    models = [{"model": path, "parameters": of_models} for path in paths]
    entries: dict[str, Any] = {
        "merge_method": method,
        "models": models,
        "dtype": "float32",
    }
    entries |= {"parameters": shared} if shared else {}
    entries |= {"base_model": base} if base else {}
    members = dict.fromkeys((*([base] if base else []), *paths))
    return Example(QWEN2, tuple(members), json.dumps(entries), None)


PER_MODEL = ("weight", "density", "gamma", "epsilon")
METHODS = {
    "task_arithmetic": method_example(
        "task_arithmetic", BASE, *THREE, weight=0.4, normalize=True
    ),
    "dare_linear": method_example("dare_linear", BASE, *TWO, weight=0.5, density=1.0),
    "dare_ties": method_example("dare_ties", BASE, *TWO, weight=0.5, density=1.0),
    "della": method_example("della", BASE, *TWO, weight=0.5, density=1.0),
    "della_linear": method_example("della_linear", BASE, *TWO, weight=1.0, density=1.0),
    "breadcrumbs": method_example(
        "breadcrumbs", BASE, *THREE, weight=0.4, density=0.8, gamma=0.05
    ),
    "breadcrumbs_ties": method_example(
        "breadcrumbs_ties", BASE, *THREE, weight=0.4, density=0.8, gamma=0.05
    ),
    "sce": method_example("sce", BASE, *THREE, select_topk=0.5),
    "ram": method_example("ram", BASE, *THREE, epsilon=1e-3),
    "ramplus_tl": method_example("ramplus_tl", BASE, *THREE, r=0.2, alpha=0.3),
    "model_stock by row": method_example("model_stock", BASE, *THREE, filter_wise=True),
    "nuslerp": method_example("nuslerp", None, *TWO, weight=0.5),
    "nuslerp by row": method_example(
        "nuslerp", None, *TWO, weight=0.5, nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "nuslerp of task vectors": method_example("nuslerp", BASE, *TWO, weight=0.5),
    "multislerp": method_example("multislerp", None, *THREE, weight=0.5),
    "multislerp of task vectors": method_example(
        "multislerp", BASE, *THREE, weight=1.0
    ),
    "karcher": method_example("karcher", None, *THREE, max_iter=100, tol=1e-9),
    "nearswap": method_example("nearswap", CHAT, CHAT, CODE, t=0.01),
    "arcee_fusion": method_example("arcee_fusion", CHAT, CHAT, CODE),
}
