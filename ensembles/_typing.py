"""Array types for annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # any dtype of members, including bfloat16 of ml_dtypes
Counts = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
