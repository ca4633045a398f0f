"""Names for the array types that cross package borders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]
Real: TypeAlias = NDArray[np.floating[Any]]
"""float32 or float64: the numpy backend runs in either."""
Int8: TypeAlias = NDArray[np.int8]
UInt8: TypeAlias = NDArray[np.uint8]
Int16: TypeAlias = NDArray[np.int16]
Int32: TypeAlias = NDArray[np.int32]
Int64: TypeAlias = NDArray[np.int64]
Array: TypeAlias = NDArray[Any]

Tensors: TypeAlias = Mapping[str, Float32]
"""Float tensors by name: parameters (`conv1/weight`) and state (`bn1/mean`, `relu1/range`)."""
