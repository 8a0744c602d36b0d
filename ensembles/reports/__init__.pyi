from .checkpoint_comparison import compare_checkpoints as compare_checkpoints
from .comparison import Comparison as Comparison
from .comparison import ComparisonRow as ComparisonRow
from .cost import Cost as Cost
from .model_comparison import compare as compare
