"""Tests that need a CUDA GPU; without one they are skipped. `pytest tests/gpu`."""
