"""What flows on edges: values, their digests and codecs, ports, and the declaration of node types."""
