"""Write outputs: path templates, encodings, files."""
