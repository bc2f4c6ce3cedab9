"""Training runs from recipes, their evaluation and reports."""
