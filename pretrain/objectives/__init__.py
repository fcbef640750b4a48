"""Training objectives, one file each; `objective=\"masked\"` in a config means masked.py."""
