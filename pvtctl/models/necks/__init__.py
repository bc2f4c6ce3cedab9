"""Necks: maps of a backbone -> maps of equal width."""
