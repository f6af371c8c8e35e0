from .comparison import Difference as Difference
from .factors import Factor as Factor
from .factors import Plate as Plate
from .factors import Program as Program
from .factors import read as read
from .printer import Story as Story
from .printer import story as story
from .printer import story_of_objective as story_of_objective
