"""Studies: all rows of a paper's table, run, costed and judged against what the paper says of them."""
