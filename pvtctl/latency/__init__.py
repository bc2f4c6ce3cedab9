"""Time and peak memory of models on this machine."""
