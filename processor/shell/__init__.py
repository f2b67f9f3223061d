"""All input and output, one module a neighbour."""
