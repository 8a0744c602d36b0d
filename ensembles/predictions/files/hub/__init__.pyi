from .blending import HubBlend as HubBlend
from .blending import HubScore as HubScore
from .blending import blend_round as blend_round
from .folder import Hub as Hub
from .folder import open_hub as open_hub
from .submission import check_submission as check_submission
from .submission import write_submission as write_submission
