"""What the files of others say besides names and shapes, and where in them weights are."""
