"""Training: recipes, the loop, run folders and the command line. Importing this does not import torch."""
