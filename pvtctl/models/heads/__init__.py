"""Heads: maps -> raw outputs, losses and predictions, one file per family."""
