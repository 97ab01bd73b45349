"""The fault matrix: each row of docs/failures.md, injected into a real attempt of a real run."""
