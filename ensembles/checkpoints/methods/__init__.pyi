from .builtin import model_stock as model_stock
from .builtin import ram as ram
from .builtin import task_arithmetic as task_arithmetic
