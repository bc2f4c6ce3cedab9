"""From a recipe to a finished run, its evaluation and its report."""
