"""Run the embedded models: a small Imagen in pixel space, and an editor by instruction."""
