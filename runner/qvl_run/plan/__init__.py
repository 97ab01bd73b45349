"""What a run will do, said before it does it. Pure but for reading what the job and its storage hold."""
