"""Files, downloads and memory; independent of models and data."""
