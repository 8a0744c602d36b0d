from .builtin import fisher as fisher
from .builtin import regmean as regmean
