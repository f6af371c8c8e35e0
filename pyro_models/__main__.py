"""`python -m pyro_models VERB ...`, installed as `pyro-stories`."""

import sys

from pyro_models.cli.verbs import main

if __name__ == "__main__":
    sys.exit(main())
