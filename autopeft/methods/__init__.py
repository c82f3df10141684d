"""PEFT methods, one file each; `PART` is what `discover` takes."""
