from .alignment import AlignedPredictions as AlignedPredictions
from .alignment import align as align
from .formats.builtin import PREDICTION_FORMATS as PREDICTION_FORMATS
from .prediction_file import PredictionFile as PredictionFile
from .prediction_file import open_predictions as open_predictions
from .target import Target as Target
from .target import read_target as read_target
