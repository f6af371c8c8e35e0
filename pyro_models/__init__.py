"""Deep generative models as readable probabilistic programs.

Each module of this package is one story, `p(x, z)`; `guides` holds its inference, `q(z | x)`, under the
same file name. The sub-packages hold the machinery. Importing this package does not import torch.
"""

__version__ = "0.1.0"
