"""What models attend to, are made of and get wrong, as data for pictures."""
