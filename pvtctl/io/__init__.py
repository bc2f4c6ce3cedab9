"""Files, downloads and memory: knows nothing of pvtctl."""
