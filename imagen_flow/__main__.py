"""Let ``python -m imagen_flow`` be the command ``imagen-flow``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="imagen-flow")
