from .folder import Run as Run
from .folder import open_run as open_run
from .options import RunOptions as RunOptions
from .origin import Provenance as Provenance
from .origin import provenance as provenance
from .results import tables as tables
from .seeds import train_seeds as train_seeds
from .trainer import train as train
