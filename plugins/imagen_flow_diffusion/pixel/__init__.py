"""Models of the project's own kinds, which work on pixels: the cascade that draws, and the editor."""
