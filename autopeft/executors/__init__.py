"""Ways to run measurements, one file each."""
