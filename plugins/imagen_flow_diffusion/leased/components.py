"""The former name of `imagen_flow_diffusion.loading.components`."""

from ..loading.components import Whole

__all__ = ["Whole"]
