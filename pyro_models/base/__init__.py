"""What all rooms stand on: plain Python that does not import torch."""
