from .checks import write_arviz as write_arviz
from .checks import write_checks as write_checks
from .comparison import write_comparison as write_comparison
from .likelihood import write_likelihood as write_likelihood
from .page import write_page as write_page
from .pictures import publish as publish
from .pictures import write_pictures as write_pictures
from .samples import write_samples as write_samples
