"""Recognise, convert, load and fetch checkpoints of pvtctl and of other projects."""
