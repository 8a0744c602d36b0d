from .builtin import RULES as RULES
from .builtin import fisher as fisher
from .builtin import regmean as regmean
