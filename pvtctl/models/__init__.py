"""The networks, built from plain arguments; independent of recipes."""
