"""What a machine's facts mean for training: what it will do, and which known traps lie in it."""
