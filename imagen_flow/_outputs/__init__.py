"""Where outputs go, and how pictures are written."""
