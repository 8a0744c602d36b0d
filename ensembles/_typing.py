"""Array types that the whole library uses in annotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of any dtype that members come in, bfloat16 among them
Counts = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
