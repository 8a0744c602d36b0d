from .cascade import CascadeClassifier as CascadeClassifier
from .cascade import CascadePrediction as CascadePrediction
from .classifier import EnsembleClassifier as EnsembleClassifier
from .combiners.builtin import COMBINERS as COMBINERS
from .combiners.combiner import Combiner as Combiner
from .regressor import EnsembleRegressor as EnsembleRegressor
from .transformer import EnsembleTransformer as EnsembleTransformer
