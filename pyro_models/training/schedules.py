"""Learning-rate schedules: functions of the fraction of the run that is over, from 0 to 1."""

import math
from collections.abc import Callable


def cosine(peak: float) -> Callable[[float], float]:
    """Return the schedule from `peak` to 0 along half a cosine (Loshchilov and Hutter, 2017, without restarts).

    >>> [round(cosine(0.1)(progress), 3) for progress in (0.0, 0.5, 1.0)]
    [0.1, 0.05, 0.0]
    """
    return lambda progress: peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def stages(peak: float) -> Callable[[float], float]:
    """Return the schedule from `peak` to a tenth of it in eight stages, each three times as long as the last.

    >>> [round(stages(0.1)(progress), 3) for progress in (0.0, 0.1, 0.9)]
    [0.1, 0.019, 0.01]

    Burda, Grosse and Salakhutdinov, 2016, section 5: 3^i passes at 0.001 * 10^(-i / 7), i = 0, ..., 7, which are
    (3^8 - 1) / 2 = 3,280 passes.
    """
    return lambda progress: peak * 10 ** (-int(math.log(1.0 + (3**8 - 1) * progress, 3)) / 7)
