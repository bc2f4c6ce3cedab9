"""Cost of a model: parameters and multiply-accumulates (`counting`), activation memory (`memory`)."""
