"""The programs, one a file, each readable top to bottom. No room below imports them."""
