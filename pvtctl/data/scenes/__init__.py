"""The built-in data set `scenes`, rendered on the fly."""
