"""Many small images as one PNG, which a page cuts up again."""

import base64
import io

import torch
from torch import Tensor

COLUMNS = 20


def sprite(images: Tensor, columns: int = COLUMNS) -> str:
    """Return images [n, channel, height, width] of 0 to 1, `columns` in a row, as the address of a PNG file.

    Three channels are colours; of any other number the mean is ink, dark on white.
    """
    from PIL import Image

    n, channels, height, width = images.shape
    images = images if channels == 3 else 1 - images.mean(1, keepdim=True)
    blank = images.new_ones(-n % columns, *images.shape[1:])
    rows = torch.cat([images, blank]).unflatten(0, (-1, columns))  # [rows, columns, channel, height, width]
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(len(rows) * height, columns * width, -1)
    pixels = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
