from .averaging import Report as Report
from .averaging import average as average
from .averaging import write as write
from .options import Options as Options
from .planning import Plan as Plan
from .planning import plan as plan
