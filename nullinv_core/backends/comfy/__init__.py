"""The ComfyUI backend. Nothing is imported here: ``sigmas`` is of use without ComfyUI."""
