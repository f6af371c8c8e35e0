from .comparison import Comparison as Comparison
from .comparison import compare as compare
from .comparison import comparison_table as comparison_table
from .importance import Evidence as Evidence
from .importance import evidence as evidence
from .importance import log_likelihood as log_likelihood
from .inference_gap import NoClosedFamily as NoClosedFamily
from .inference_gap import gap as gap
