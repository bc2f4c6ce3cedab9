"""Necks: four maps of a backbone -> maps of equal width."""
