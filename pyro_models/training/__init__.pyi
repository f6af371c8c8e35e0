from .fit import Epoch as Epoch
from .fit import NonFiniteTerm as NonFiniteTerm
from .fit import parameters as parameters
from .schedules import cosine as cosine
from .schedules import stages as stages
