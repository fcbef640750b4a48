"""What the rows and columns of a similarity matrix are compared with, one file each with a frozen `Target`."""
