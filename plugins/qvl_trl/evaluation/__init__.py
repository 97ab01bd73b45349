"""What a model can do, measured without disturbing its training."""
