from .builtin import RULES as RULES
from .builtin import dare_linear as dare_linear
from .builtin import dare_ties as dare_ties
from .builtin import della_linear as della_linear
from .builtin import della_ties as della_ties
from .builtin import model_stock as model_stock
from .builtin import ram as ram
from .builtin import task_arithmetic as task_arithmetic
