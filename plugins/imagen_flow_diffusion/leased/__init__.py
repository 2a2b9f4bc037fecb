"""The former home of `imagen_flow_diffusion.loading`, for plugins that still import from it."""
