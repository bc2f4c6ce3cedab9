"""Heads: maps -> raw outputs, losses and detections, one file a family."""
