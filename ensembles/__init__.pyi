from . import checkpoints as checkpoints
from . import embeddings as embeddings
from . import predictions as predictions
from . import reports as reports
from . import rules as rules
from . import selection as selection
from .checkpoints import ModelSoup as ModelSoup
from .checkpoints import average as average
from .embeddings import SentenceEmbedder as SentenceEmbedder
from .embeddings import SentenceEncoder as SentenceEncoder
from .predictions import EnsembleClassifier as EnsembleClassifier
from .predictions import EnsembleRegressor as EnsembleRegressor
from .predictions import EnsembleTransformer as EnsembleTransformer

__version__: str
