"""The algorithms, and the mathematics that they are made of."""
