"""What the data of all tasks share: files, layouts, samplers, loaders, checks and the built-in scenes."""
