"""
A rule of your own
==================

A rule is one function from a stack of members, of shape ``(n_members, size)``, and their weights
to one array. Once it is registered, every part of the library takes it by name: checkpoints,
ensembles of predictions, and the command, if it is started from the file that registers the rule.
"""

# %%
# Define it
# ---------
# This rule averages, at each position, the two members that are closest to each other.

import matplotlib.pyplot as plt
import numpy as np

from ensembles.checkpoints import average
from ensembles.registry import register
from ensembles.rules import RULES


@register(RULES)
def closest_pair(stack, weights):
    """Mean of the two entries that are closest to each other."""
    ordered = np.sort(stack, axis=0)
    first = np.argmin(np.diff(ordered, axis=0), axis=0)[None]
    low = np.take_along_axis(ordered, first, axis=0)
    high = np.take_along_axis(ordered, first + 1, axis=0)
    return ((low + high) / 2)[0]


# %%
# Use it
# ------
# Five checkpoints hold the same curve with noise; a part of two of them is damaged.

rng = np.random.default_rng(0)
position = np.linspace(0, 2 * np.pi, 200)
members = [np.sin(position) + rng.normal(0, 0.08, 200) for _ in range(5)]
members[0][60:110] += 1.5
members[1][80:130] -= 1.0
checkpoints = [{"curve": member} for member in members]

figure, axes = plt.subplots()
axes.plot(position, np.transpose(members), color="tab:gray", alpha=0.3, linewidth=1)
for rule in ("mean", "median", "closest_pair"):
    axes.plot(position, average(checkpoints, rule=rule)["curve"], label=rule)
axes.set_xticks([])
axes.legend()
plt.show()

# %%
# Errors are checked once, before any data is read: an unknown parameter, or a wrong number of
# members, raises an error that names the rule.

try:
    average(checkpoints, rule="closest_pari")
except ValueError as error:
    print(error)
