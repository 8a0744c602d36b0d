from .builtin import RULES as RULES
