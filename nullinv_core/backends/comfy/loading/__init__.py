"""Diffusers folders loaded as ComfyUI's own MODEL, CLIP and VAE."""
