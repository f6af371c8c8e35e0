"""Random seeds by purpose: every draw of a run follows from its seed and from what the draw is for."""

import zlib

import numpy as np


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return 64 bits that depend on all arguments, independent in effect of those of other arguments."""
    entropy = [seed, zlib.crc32(purpose.encode()), *numbers]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
