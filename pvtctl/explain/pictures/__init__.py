"""Drawing for `pvtctl visualize`."""
