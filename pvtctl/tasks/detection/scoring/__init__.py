"""COCO's metrics and analyses based on them."""
