from .checkpoint_comparison import compare_checkpoints as compare_checkpoints
from .comparison import Comparison as Comparison
from .comparison import ComparisonRow as ComparisonRow
from .cost import Cost as Cost
from .displays.difference import DifferenceDisplay as DifferenceDisplay
from .displays.interpolation import InterpolationDisplay as InterpolationDisplay
from .displays.plane import PlaneDisplay as PlaneDisplay
from .displays.predictions.calibration_curve import CalibrationCurve as CalibrationCurve
from .displays.predictions.coverage import CoverageDisplay as CoverageDisplay
from .displays.predictions.diversity import DiversityDisplay as DiversityDisplay
from .displays.predictions.ensemble_size import (
    EnsembleSizeDisplay as EnsembleSizeDisplay,
)
from .displays.predictions.pit import PITDisplay as PITDisplay
from .displays.predictions.reliability import ReliabilityDisplay as ReliabilityDisplay
from .displays.predictions.selection_path import (
    SelectionPathDisplay as SelectionPathDisplay,
)
from .displays.predictions.thresholds import ThresholdDisplay as ThresholdDisplay
from .displays.predictions.weights import WeightsDisplay as WeightsDisplay
from .displays.run import RunDisplay as RunDisplay
from .displays.soup_path import SoupPathDisplay as SoupPathDisplay
from .displays.sweep import SweepDisplay as SweepDisplay
from .displays.sweep import SweepPoint as SweepPoint
from .displays.task_vectors import TaskVectorDisplay as TaskVectorDisplay
from .model_comparison import compare as compare
