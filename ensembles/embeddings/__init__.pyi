from .embedder import SentenceEmbedder as SentenceEmbedder
from .encoder import SentenceEncoder as SentenceEncoder
from .pooling import POOLINGS as POOLINGS
from .vectors.reading import read_vectors as read_vectors
from .vectors.table import WordVectors as WordVectors
from .vectors.writing import write_vectors as write_vectors
from .word_weights import WEIGHTINGS as WEIGHTINGS
