"""All built-in formats; importing this module fills the table `PREDICTION_FORMATS`."""

from __future__ import annotations

from ensembles.predictions.files.formats.arrays import npy, npz
from ensembles.predictions.files.formats.parquet_files import parquet
from ensembles.predictions.files.formats.table import (
    PREDICTION_FORMATS,
    PredictionFormat,
)
from ensembles.predictions.files.formats.text_tables import csv, tsv

__all__ = [
    "PREDICTION_FORMATS",
    "PredictionFormat",
    "csv",
    "npy",
    "npz",
    "parquet",
    "tsv",
]
