"""Tests that need a CUDA GPU, or bitsandbytes; without it they are skipped. `pytest tests/gpu`."""
