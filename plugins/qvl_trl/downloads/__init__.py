"""Downloads of models and data sets from the hub: watched byte by byte, resumed, and told apart when they fail."""
