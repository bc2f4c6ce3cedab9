"""The networks: built from plain arguments, they know nothing of recipes."""
