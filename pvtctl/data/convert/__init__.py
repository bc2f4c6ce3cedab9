"""Other detection formats to COCO's."""
