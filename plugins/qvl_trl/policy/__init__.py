"""The model that is trained: loaded, adapted, saved."""
