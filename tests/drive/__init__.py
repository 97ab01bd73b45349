"""A real file system that fails as a Google Drive mounted on Colab does, and tests that steer it."""
