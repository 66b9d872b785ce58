"""GPUs as NVIDIA's driver shows them."""
