"""How wrong predictions are, overall and by slice. Errors are in the target's unit."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd


def absolute_errors(predicted_N: npt.NDArray[np.float32], target: pd.Series) -> npt.NDArray[np.float64]:
    """Give |predicted - true| for N rows."""
    error_N: npt.NDArray[np.float64] = np.abs(predicted_N.astype(np.float64) - target.to_numpy(np.float64))
    return error_N


def measure(predicted_N: npt.NDArray[np.float32], target: pd.Series) -> dict[str, float]:
    """Give mean and median absolute error, its 90 % quantile, bias (predicted - true) and the number of rows."""
    error_N = absolute_errors(predicted_N, target)
    return {
        "mae": float(error_N.mean()),
        "median_absolute_error": float(np.median(error_N)),
        "absolute_error_90": float(np.quantile(error_N, 0.9)),
        "bias": float((predicted_N.astype(np.float64) - target.to_numpy(np.float64)).mean()),
        "rows": float(len(error_N)),
    }


def measure_slices(
    predicted_N: npt.NDArray[np.float32], target: pd.Series, slices: Mapping[str, pd.Series]
) -> dict[str, dict[str, float]]:
    """Give the mean absolute error for each value of each slice."""
    error_N = pd.Series(absolute_errors(predicted_N, target), index=target.index)
    return {
        name: {str(value): float(mean) for value, mean in error_N.groupby(values, observed=True).mean().items()}
        for name, values in slices.items()
    }
