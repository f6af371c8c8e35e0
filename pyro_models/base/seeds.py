"""Seeds derived for each purpose from the seed of a run."""

import zlib

import numpy as np


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 64-bit seed that depends on all arguments; seeds of different arguments are practically independent."""
    entropy = [seed, zlib.crc32(purpose.encode()), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
