from .reading import read_vectors as read_vectors
from .table import WordVectors as WordVectors
from .writing import write_vectors as write_vectors
