from . import checkpoints as checkpoints
from . import rules as rules
from . import selection as selection

__version__: str
