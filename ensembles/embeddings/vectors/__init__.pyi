from .read import read_vectors as read_vectors
from .word_vectors import WordVectors as WordVectors
from .write import write_vectors as write_vectors
