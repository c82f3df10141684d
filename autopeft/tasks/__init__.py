"""Task types, one file each; what several of them share lies in `parts/`."""
