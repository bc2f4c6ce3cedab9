"""Probes: heads trained on the features of frozen backbones, which are computed once and kept on disk."""
