"""What holds of every figure."""

import numpy as np

LEEWAY = 0.02  # inches, of rounding


def assert_nothing_is_cut(figure):
    """Draw a figure, and assert that nothing of it leaves its canvas."""
    figure.canvas.draw()
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    inside = min(box.x0, box.y0) > -LEEWAY and box.x1 < size[0] + LEEWAY and box.y1 < size[1] + LEEWAY
    assert inside, f"{figure.get_suptitle()!r}: {np.round(box.extents, 2)} of {size} inches"
