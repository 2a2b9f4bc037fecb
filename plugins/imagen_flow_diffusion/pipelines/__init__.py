"""The classes of diffusers: which one does what, and how one is called step by step."""
