"""Record formats, one file each."""
