"""Parameter names of other projects, one module per project."""
