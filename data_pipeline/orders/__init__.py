"""Orders in which training reads examples, one file each: `data.order` names one."""
