"""Seeds derived for each purpose from the seed of a run."""

import zlib
from functools import cache

import numpy as np


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 64-bit seed that depends on all arguments; seeds of different arguments are practically independent."""
    entropy = [seed, zlib.crc32(purpose.encode()), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def seed_noise(seed: int, purpose: str, *numbers: int) -> None:
    """Seed torch's global noise by `derived_seed`.

    Without an accelerator it seeds the CPU's alone: `torch.manual_seed` also notes a traceback each time, for a GPU's
    first use, which takes about as long as a step of a small pair.
    """
    import torch  # which the command line does not wait for

    (torch if _accelerated() else torch.default_generator).manual_seed(derived_seed(seed, purpose, *numbers))


@cache
def _accelerated() -> bool:
    import torch

    return torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available()
