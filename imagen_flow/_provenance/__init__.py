"""How a value came to be, and its place in a picture."""
