"""Parameter names of other projects, one module each."""
