"""What the nodes of a single stage lease: text encoders, base denoisers, enlargers and editors."""
