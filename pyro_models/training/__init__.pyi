from .loop import Epoch as Epoch
from .loop import NonFiniteTerm as NonFiniteTerm
from .loop import fit as fit
from .loop import parameters as parameters
from .schedules import cosine as cosine
from .schedules import optimizer_of as optimizer_of
from .schedules import schedule_of as schedule_of
from .schedules import stages as stages
