"""What a run needs and how fast it can be, from compiling its real step for machines that are not here."""
