"""Task types, one file each, and `_shared`, which several of them use."""
