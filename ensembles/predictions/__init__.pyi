from .classifier import EnsembleClassifier as EnsembleClassifier
from .combining import COMBINERS as COMBINERS
from .regressor import EnsembleRegressor as EnsembleRegressor
from .transformer import EnsembleTransformer as EnsembleTransformer
