"""Attention, architecture, features and errors of models, as data for pictures."""
