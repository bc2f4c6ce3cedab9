"""Studies: all rows of a paper's table, trained, counted and compared with the paper's claims."""
