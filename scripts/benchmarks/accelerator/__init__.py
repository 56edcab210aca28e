"""What `scripts/gpu_check` measures, by theme; `rows` lists it."""
