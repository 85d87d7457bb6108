"""What makes a ComfyUI model differentiable, in the memory that there is."""
