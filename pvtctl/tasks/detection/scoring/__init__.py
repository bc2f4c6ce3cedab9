"""COCO's metrics and what follows from them."""
