from .displays.difference import DifferenceDisplay as DifferenceDisplay
from .displays.interpolation import InterpolationDisplay as InterpolationDisplay
from .displays.plane import PlaneDisplay as PlaneDisplay
from .displays.run import RunDisplay as RunDisplay
from .displays.soup_path import SoupPathDisplay as SoupPathDisplay
from .displays.sweep import SweepDisplay as SweepDisplay
from .displays.sweep import SweepPoint as SweepPoint
from .displays.task_vectors import TaskVectorDisplay as TaskVectorDisplay
