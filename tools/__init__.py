"""Programs around the trainer; nothing imports them."""
