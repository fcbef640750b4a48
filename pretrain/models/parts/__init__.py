"""The parts of networks, one file each: a frozen `Config` of its settings and the module `Part` that it makes."""
