"""Entries of COCO files that other tools wrote: what is clear is mended, what looks wrong is named."""
